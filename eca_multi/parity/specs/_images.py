"""Real feature maps: the two photographs that scikit-learn bundles, as block-DCT coefficients."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.sources import Arrays, Rng

BLOCK = 8


def photographs(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Draw "x" as the corner of `photograph_features` with the sizes of a case."""
    return {"x": photograph_features()[tuple(slice(config[axis]) for axis in "NCHW")]}


def photograph_features() -> np.ndarray:
    """Return both photographs as 8x8-block DCT maps, float64 of shape (2, 192, 53, 80).

    Each of the 53 x 80 blocks of 8 x 8 pixels (values in [0, 1]) gives 64 orthonormal DCT-II coefficients for each of
    the three colours. The channels differ as those of a trained network do: a few large means and many near zero.
    """
    from scipy.fft import dctn
    from sklearn.datasets import load_sample_images

    images = np.stack(load_sample_images().images) / 255.0
    rows, columns = images.shape[1] // BLOCK, images.shape[2] // BLOCK
    blocks = images[:, : rows * BLOCK, : columns * BLOCK].reshape(len(images), rows, BLOCK, columns, BLOCK, 3)
    coefficients = dctn(blocks, axes=(2, 4), norm="ortho")
    maps: np.ndarray = coefficients.transpose(0, 5, 2, 4, 1, 3).reshape(len(images), -1, rows, columns)
    return maps
