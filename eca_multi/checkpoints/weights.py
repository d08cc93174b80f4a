"""From a checkpoint's tensors to canonical weights."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eca_multi._canonical import Weights, check_weights
from eca_multi.networks import tensors

from .identify import Identified, identify
from .source import Stored


@dataclass(frozen=True)
class Checkpoint:
    """Canonical weights, the network that they are of, and where they come from.

    Args:
        weights: Canonical name to array.
        found: The network and how it must be built.
        facts: What the source says of itself (epoch, key, ...), as text.
    """

    weights: Weights
    found: Identified
    facts: dict[str, str] = field(default_factory=dict)

    def backbone(self, *, features_only: bool = False) -> Weights:
        """Return the weights without the classifier, and without the last convolutions for `features_only`.

        For another number of classes load `{**to_canonical(model), **checkpoint.backbone()}`: still strict.
        """
        found = self.found
        listed = tensors(
            found.network,
            found.kernel_sizes,
            num_classes=0,
            in_channels=found.in_channels,
            dims=found.dims,
            features_only=features_only or found.features_only,
        )
        return {name: self.weights[name] for name in listed}


def take(
    arrays: Mapping[str, np.ndarray | Stored], arch: str | None = None, facts: Mapping[str, str] | None = None
) -> Checkpoint:
    """Take a torch state dict as arrays to canonical weights; arrays are passed on, not copied.

    Of tensors that are still in their file those of the network are read, once it is known which network it is.

    Raises:
        CheckpointError: If they are not exactly the tensors of a network.
        TypeError, ValueError: If `arch` is no network's name, or a tensor is not of floating point or not finite.
    """
    chosen, found = choose(arrays, arch)
    weights = {name: array.load() if isinstance(array, Stored) else array for name, array in chosen.items()}
    checked = check_weights(weights)
    for array in checked.values():
        release(array)
    return Checkpoint(checked, found, dict(facts or {}))


def choose(
    arrays: Mapping[str, np.ndarray | Stored], arch: str | None = None
) -> tuple[dict[str, np.ndarray | Stored], Identified]:
    """Find the network that a torch state dict is of; return its tensors by canonical name, in their shapes.

    Raises:
        CheckpointError: If they are not exactly the tensors of a network.
        TypeError, ValueError: If `arch` is no network's name.
    """
    found = identify({name: array.shape for name, array in arrays.items()}, arch)
    return {name: _shaped(arrays[found.names[name]], tensor.shape) for name, tensor in found.tensors.items()}, found


def _shaped(array: np.ndarray | Stored, shape: tuple[int, ...]) -> np.ndarray | Stored:
    if isinstance(array, Stored):
        return array if array.shape == shape else array.viewed(lambda values: values.reshape(shape))
    return array.reshape(shape)


def release(array: np.ndarray) -> None:
    """Let go of the memory that holds an array which is mapped from a file; it is read again when it is needed."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return what is to be kept in a file beside the weights.

    Raises:
        TypeError: If it is no mapping of strings to strings.
    """
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for item in texts.items() for text in item):
        raise TypeError(f"metadata must be strings by name. Received: {texts!r}. Convert them with str.")
    return texts
