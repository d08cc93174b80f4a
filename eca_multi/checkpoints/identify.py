"""Which network a checkpoint is of, with which kernels: read off names and shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eca_multi._printable import PrintableError
from eca_multi.networks import NETWORKS, Network, Tensor, find, kernel_sizes, tensors

from .names import canonical_names
from .report import Report, Shapes, compare


class CheckpointError(PrintableError, ValueError):
    """A checkpoint that does not fit; `report` lists every tensor, where it got that far."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Identified:
    """A network, and how it must be built for a checkpoint's tensors.

    Args:
        network: One of NETWORKS.
        kernel_sizes: One per ECA, from the kernels' shapes.
        num_classes: 0 where there is no classifier.
        in_channels, dims: Of the input.
        features_only: Whether the last convolutions are left out as well.
        names: Canonical name to name in the source.
        tensors: The network's canonical tensors.
        report: Of the comparison; everything is matched.
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
        """The keywords for the builder of that name in any framework."""
        return {
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "kernel_sizes": list(self.kernel_sizes),
            "features_only": self.features_only,
            "dims": self.dims,
        }


def identify(shapes: Shapes, arch: str | None = None) -> Identified:
    """Find the network whose tensors a checkpoint holds, exactly.

    Args:
        shapes: Name to shape, as in torch: of the original ECANet (`layer1.0.eca.conv.weight`), of timm
            (`layer1.0.se.conv.weight`), or canonical; `module.` and the like before every name are dropped.
        arch: Name of the network, where it is known.

    Raises:
        CheckpointError: If no network has exactly these tensors; it names the nearest and what differs.
        TypeError, ValueError: If `arch` is no network's name.
    """
    names = canonical_names(shapes)
    found = {name: tuple(shapes[source]) for name, source in names.items()}
    if arch is not None:
        attempt = _attempt(find(arch), names, found)
        if attempt.report.fits:
            return attempt
    attempts = [_attempt(network, names, found) for network in NETWORKS.values()]
    fitting = [attempt for attempt in attempts if attempt.report.fits]
    if fitting and arch is None:
        return fitting[0]
    if arch is not None:
        wanted = next(attempt for attempt in attempts if attempt.network.name == arch)
        raise _misfit(f"the checkpoint must hold the tensors of {arch}", wanted, fitting or _nearest(attempts))
    nearest = _nearest(attempts)
    raise _misfit("the checkpoint must hold the tensors of a network of this package", nearest[0], nearest)


def _attempt(network: Network, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> Identified:
    """Read the options off the shapes as if they were this network's, and compare."""
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
    """The size of one kernel, (1, 1, k) or (k,); where it is none, the published one, so that it is reported."""
    one = len(shape) == 1 or tuple(shape[:-1]) == (1, 1)
    return shape[-1] if one and len(shape) in (1, 3) and shape[-1] % 2 else default


def _nearest(attempts: list[Identified]) -> list[Identified]:
    return sorted(attempts, key=_distance)[:3]


def _distance(attempt: Identified) -> int:
    report = attempt.report
    return len(report.missing) + len(report.unexpected) + len(report.misshaped)


def _misfit(expected: str, attempt: Identified, instead: list[Identified]) -> CheckpointError:
    names = " or ".join(other.network.name for other in instead)
    remedy = f"It is of {names}." if instead[0].report.fits else f"The nearest networks are {names}."
    return CheckpointError(
        f"{expected}. Received, compared with {attempt.network.name}: {attempt.report.text()}\n{remedy}", attempt.report
    )
