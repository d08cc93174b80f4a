"""Identify the network that a checkpoint is of, from the names and shapes of its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eca_multi.networks import NETWORKS, Network, Tensor, find, kernel_sizes, tensors

from .compare import Report, Shapes, compare
from .errors import CheckpointError
from .names import canonical_names


@dataclass(frozen=True)
class Identified:
    """A network, and the options that build it for a checkpoint's tensors.

    Args:
        kernel_sizes: One per ECA, from the kernels' shapes.
        num_classes: 0 without a classifier.
        features_only: Whether the last convolutions are missing as well.
        names: Canonical name to name in the source.
        tensors: The network's canonical tensors.
        report: The comparison; its lists of differences are empty.
    """

    network: Network
    kernel_sizes: tuple[int, ...]
    num_classes: int
    in_channels: int
    dims: int
    features_only: bool
    names: dict[str, str]
    tensors: dict[str, Tensor]
    report: Report

    @property
    def options(self) -> dict[str, Any]:
        """The keywords for the builder of the network, in any framework."""
        return {
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "kernel_sizes": list(self.kernel_sizes),
            "features_only": self.features_only,
            "dims": self.dims,
        }


def identify(shapes: Shapes, arch: str | None = None) -> Identified:
    """Find the network that has exactly the tensors of a checkpoint.

    Args:
        shapes: Name to shape in torch's layout. The names are those of the original ECANet
            (`layer1.0.eca.conv.weight`), of timm (`layer1.0.se.conv.weight`), or canonical. A prefix that all names
            share, such as `module.`, is dropped.
        arch: Name of the network, if it is known.

    Raises:
        CheckpointError: If no network has exactly these tensors, or `arch` has not; the error names the nearest
            networks and the differences.
        TypeError, ValueError: If `arch` is no network's name.
    """
    names = canonical_names(shapes)
    received = {name: tuple(shapes[source]) for name, source in names.items()}
    if arch is not None:
        attempt = _attempt(find(arch), names, received)
        if attempt.report.fits:
            return attempt
    attempts = [_attempt(network, names, received) for network in NETWORKS.values()]
    fitting = [attempt for attempt in attempts if attempt.report.fits]
    if fitting and arch is None:
        return fitting[0]
    raise _misfit(arch, attempts, fitting)


def _attempt(network: Network, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> Identified:
    """Read the options from the shapes as if the tensors were this network's, and compare."""
    stem = shapes.get(f"{network.stem_convs[0].path}.weight", ())
    dims = len(stem) - 2 if len(stem) in (3, 4) else 2
    in_channels = stem[1] if len(stem) in (3, 4) else 3
    dense = shapes.get(f"{network.classifier}.weight", ())
    classes = dense[0] if len(dense) == 2 else 0
    headless = bool(network.head) and f"{network.head[0].path}.weight" not in shapes and not classes
    published = kernel_sizes(network)
    sizes = tuple(
        _size(shapes.get(f"{block.eca}.weight", ()), default)
        for block, default in zip(network.blocks, published, strict=True)
    )
    listed = tensors(network, sizes, num_classes=classes, in_channels=in_channels, dims=dims, features_only=headless)
    return Identified(network, sizes, classes, in_channels, dims, headless, names, listed, compare(listed, shapes))


def _size(shape: Sequence[int], default: int) -> int:
    """Return k of a kernel (1, 1, k) or (k,). Any other shape gets the published size, so that the report lists it."""
    is_kernel = len(shape) == 1 or tuple(shape[:-1]) == (1, 1)
    return shape[-1] if is_kernel and len(shape) in (1, 3) and shape[-1] % 2 else default


def _misfit(arch: str | None, attempts: list[Identified], fitting: list[Identified]) -> CheckpointError:
    """Return the error: the verdict, then the differences from the nearest network."""
    nearest = sorted(attempts, key=lambda attempt: attempt.report.differences)[:3]
    compared = next((attempt for attempt in attempts if attempt.network.name == arch), nearest[0])
    expected = f"the tensors of {arch or 'a network of this package'}"
    names = " or ".join(attempt.network.name for attempt in fitting or nearest)
    verdict = f"It is of {names}." if fitting else f"The nearest networks are {names}."
    return CheckpointError(
        f"the checkpoint must hold {expected}. {verdict} "
        f"Received, compared with {compared.network.name}: {compared.report.text()}",
        compared.report,
    )
