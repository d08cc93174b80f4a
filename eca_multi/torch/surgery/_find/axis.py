"""Where the channels of a site's output are: told by evidence, never by the axis behind the batch alone.

The evidence, the best first: the axis that the site's class says, or the class of the module that makes its output; the
only axis with the length that a parameter of the site has; the only axis behind the batch that stays when the network
runs on a larger input.
"""

from dataclasses import dataclass

from torch import nn

from eca_multi.surgery.reasons import TOKENS, UNKNOWN_AXIS

from .places import children

Shape = tuple[int, ...]
NO_POSITIONS = "its output has rank {}: ECA averages over positions, of which there are none"
RANK_UNKNOWN = (
    "its output has the channels last and is not turned again: tokens, vectors or a map, which example_inputs tell"
)


@dataclass(frozen=True)
class Axis:
    """The channels of a site's output: how many, at axis 1 or -1 (None if unknown), and why no ECA can stand there."""

    channels: int | None = None
    axis: int | None = None
    reason: str = ""
    axis_reason: str = ""

    @property
    def layout(self) -> str:
        return "channels_last" if self.axis == -1 else "channels_first"


def axis_without_run(path: str, module: nn.Module, said: tuple[int | None, int | None], is_turned: bool) -> Axis:
    """Return what classes alone say; `is_turned`: the axes are permuted behind the site, so a map goes through it."""
    channels, axis = said
    if is_turned:
        return Axis(channels, -1)
    if axis == -1:
        reason = NO_POSITIONS.format(2) if isinstance(module, nn.Linear) else RANK_UNKNOWN
        return Axis(channels, axis, axis_reason=reason)
    if axis is None and channels is not None:
        return Axis(channels, axis_reason=UNKNOWN_AXIS.format(seen="", path=path))
    return Axis(channels, axis)


def axis_in_run(
    path: str, module: nn.Module, said: tuple[int | None, int | None], shape: Shape, grown: "Shape | None"
) -> Axis:
    """Return what a run shows of a site.

    Args:
        path, module: The site.
        said: The number and the axis of the channels that classes say, as far as these are known.
        shape: The shape of the site's output.
        grown: The shape of that output for a larger input; None if the network takes no larger one.
    """
    if len(shape) < 3:
        return Axis(reason=NO_POSITIONS.format(len(shape)))
    axis = _axis(module, said, shape, grown)
    if axis is None:
        seen = f" in {shape}" if grown is None else f" in {shape}, which a larger input makes {grown}"
        return Axis(said[0], None, axis_reason=UNKNOWN_AXIS.format(seen=seen, path=path))
    if axis not in (1, len(shape) - 1):
        return Axis(shape[axis], reason=f"its channels are at axis {axis} of {shape}: ECA takes axis 1 or the last one")
    if len(shape) == 3 and axis == 2:
        return Axis(shape[2], -1, axis_reason=TOKENS.format(path=path))
    return Axis(shape[axis], 1 if axis == 1 else -1)


def _axis(module: nn.Module, said: tuple[int | None, int | None], shape: Shape, grown: "Shape | None") -> int | None:
    channels, axis = said
    if axis is not None and channels is not None and shape[axis] == channels:
        return axis % len(shape)
    known = [channels] if channels is not None else lengths(module)
    if len(known) == 1 and shape[1:].count(known[0]) == 1:
        return 1 + shape[1:].index(known[0])
    if grown is None or len(grown) != len(shape) or grown[1:] == shape[1:]:
        return None
    staying = [i for i in range(1, len(shape)) if shape[i] == grown[i] and (channels is None or shape[i] == channels)]
    return staying[0] if len(staying) == 1 else None


def lengths(module: nn.Module) -> list[int]:
    """Return the lengths of the parameters of a module that scales: those with one axis longer than 1."""
    sizes = {p.numel() for p in module.parameters(recurse=False) if p.numel() == max(p.shape, default=0) > 1}
    return list(sizes) if not children(module) else []
