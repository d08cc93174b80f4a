"""Real feature maps: the two photographs that scikit-learn bundles, as block-DCT coefficients."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi.parity.define.sources import Arrays, Rng

BLOCK = 8


def photographs(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Draw "x" as the corner of `photograph_features` with the sizes of a case."""
    return {"x": photograph_features()[tuple(slice(config[axis]) for axis in "NCHW")]}


@cache
def photograph_features() -> np.ndarray:
    """Return both photographs as 8x8-block DCT maps, float64 of shape (2, 192, 53, 80).

    Each of the 53 x 80 blocks of 8 x 8 pixels (values in [0, 1]) gives 64 orthonormal DCT-II coefficients for each of
    the three colours. The channels differ as those of a trained network do: a few large means and many near zero.
    """
    images = np.stack(load_photographs()) / 255.0
    rows, columns = images.shape[1] // BLOCK, images.shape[2] // BLOCK
    blocks = images[:, : rows * BLOCK, : columns * BLOCK].reshape(len(images), rows, BLOCK, columns, BLOCK, 3)
    cosines = np.cos(np.pi / BLOCK * np.outer(np.arange(BLOCK), np.arange(BLOCK) + 0.5)) * (2 / BLOCK) ** 0.5
    cosines[0] /= 2**0.5
    coefficients = np.einsum("ki,lj,nricjd->ndklrc", cosines, cosines, blocks, optimize=True)
    maps: np.ndarray = coefficients.reshape(len(images), -1, rows, columns)
    maps.flags.writeable = False  # all callers share it
    return maps


def load_photographs() -> list[np.ndarray]:
    """Return the photographs, uint8 of shape (427, 640, 3): china.jpg, flower.jpg.

    The files are read from scikit-learn's folder: importing scikit-learn for them takes two seconds of each run.
    """
    from PIL import Image

    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the photographs come with scikit-learn, which is not installed", name="sklearn")
    folder = Path(package.origin).parent / "datasets" / "images"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in ("china.jpg", "flower.jpg")]
