"""Take canonical weights from a checkpoint's tensors."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eca_multi._canonical import Weights, check_weights
from eca_multi.networks import tensors

from .identify import Identified, identify
from .stored import Stored


@dataclass(frozen=True)
class Checkpoint:
    """Canonical weights, their network, and what the file says of them.

    Args:
        weights: Canonical name to array.
        found: The network, and the options that build it.
        facts: Texts from the file: epoch, key, accuracy.
    """

    weights: Weights
    found: Identified
    facts: dict[str, str] = field(default_factory=dict)

    def backbone(self, *, features_only: bool = False) -> Weights:
        """Return the weights without the classifier; with `features_only`, without the last convolutions as well.

        For another number of classes load `{**to_canonical(model), **checkpoint.backbone()}`, which is still strict.
        """
        identified = self.found
        listed = tensors(
            identified.network,
            identified.kernel_sizes,
            num_classes=0,
            in_channels=identified.in_channels,
            dims=identified.dims,
            features_only=features_only or identified.features_only,
        )
        return {name: self.weights[name] for name in listed}


def take(
    arrays: Mapping[str, np.ndarray | Stored], arch: str | None = None, facts: Mapping[str, str] | None = None
) -> Checkpoint:
    """Return the canonical weights of a state dict in torch's names and layout; arrays are passed on, not copied.

    A tensor that is still in its file is read after the network is identified, and only if the network has it.

    Raises:
        CheckpointError: If they are not exactly the tensors of a network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.
    """
    chosen, identified = choose(arrays, arch)
    weights = {name: array.load() if isinstance(array, Stored) else array for name, array in chosen.items()}
    checked = check_weights(weights)
    for array in checked.values():
        _drop_pages(array)
    return Checkpoint(checked, identified, dict(facts or {}))


def choose(
    arrays: Mapping[str, np.ndarray | Stored], arch: str | None = None
) -> tuple[dict[str, np.ndarray | Stored], Identified]:
    """Identify the network of a state dict; return its tensors by canonical name, in canonical shapes.

    Raises:
        CheckpointError: If they are not exactly the tensors of a network.
        TypeError, ValueError: If `arch` is no network's name.
    """
    identified = identify({name: array.shape for name, array in arrays.items()}, arch)
    return {
        name: _shaped(arrays[identified.names[name]], tensor.shape) for name, tensor in identified.tensors.items()
    }, identified


def _shaped(array: np.ndarray | Stored, shape: tuple[int, ...]) -> np.ndarray | Stored:
    if isinstance(array, Stored):
        return array if array.shape == shape else array.viewed(lambda values: values.reshape(shape))
    return array.reshape(shape)


def _drop_pages(array: np.ndarray) -> None:
    """Free the pages of an array that is mapped from a file; the system reads them again on the next access."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
