"""The lines of a plan: one ECA, or one site or add that gets none."""

from dataclasses import dataclass, field
from typing import Any

ACTIONS = ("after", "before_add", "replace", "fill")
LAYOUTS = ("channels_first", "channels_last")
SKIPPED = ("site", "add")


@dataclass(frozen=True)
class ECAEntry:
    """One ECA: where it stands and what it is.

    Two entries are equal if the same ECA stands at the same place: `path`, `action`, `channels`, `layout`,
    `kernel_size` and `parameters` count, and what is known besides does not.

    Args:
        path: Of the site: module path ("layer1.0.bn2"), layer name ("conv2_block1_3_bn"), nested ones joined as the
            framework does.
        action: "after" gates the site's output; "before_add" gates that output only on its way into the residual add
            named by `into`; "replace" puts ECA in the site's place (of an SE block); "fill" fills an empty slot.
        module_type: Class name of the site.
        tensor: The gated tensor, in words.
        channels: Number of channels C of the gated tensor; 0 if unknown.
        layout: "channels_first" for (N, C, *S) or "channels_last" for (N, *S, C).
        kernel_size: Odd size k of the kernel.
        parameters: Number of new parameters.
        into: Path of the layer that the gated tensor goes into; "" if every reader gets the gated tensor.
        aliases: Other paths of the same site.
        calls: How often one run of the model calls the site; None if unknown.
        keeps_output: Whether the network's output is bit-equal right after insertion.
        notes: What to know about this ECA.
        pool_axes, causal_axis: The ECA layer's options, in the site's own layout; they count for equality too.

    Example:
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> ECAEntry("layer1.0.bn2", channels=64, kernel_size=3, parameters=3).layout
        'channels_first'
    """

    path: str
    action: str = "after"
    module_type: str = field(default="", compare=False)
    tensor: str = field(default="", compare=False)
    channels: int = 0
    layout: str = "channels_first"
    kernel_size: int = 1
    parameters: int = 1
    into: str = field(default="", compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    calls: int | None = field(default=None, compare=False)
    keeps_output: bool = field(default=True, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    pool_axes: tuple[int, ...] | None = None
    causal_axis: int | None = None

    @property
    def channel_axis(self) -> int:
        return 1 if self.layout == "channels_first" else -1

    @property
    def axes(self) -> dict[str, Any]:
        """Those of `pool_axes` and `causal_axis` that are given, as keywords for the layer."""
        values = {"pool_axes": self.pool_axes, "causal_axis": self.causal_axis}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Skipped:
    """A candidate that was not taken, and why.

    Args:
        path: Of the site; for an add, of the module that adds ("" if the network itself adds).
        reason: Why there is no ECA; `eca_multi.surgery.reasons` has those that several frameworks give.
        what: "site" for a place where ECA could stand, "add" for an add of two tensors whose branch was not taken.
        line: Where the code adds, as "package.module:line"; "" if unknown.

    Example:
        >>> from eca_multi.surgery.entry import Skipped
        >>> Skipped("layer1.0.bn2", "in exclude").reason
        'in exclude'
        >>> Skipped("layer1.0", "adds parallel branches", "add", "nets.resnet:31").where
        'layer1.0 (nets.resnet:31)'
    """

    path: str
    reason: str
    what: str = "site"
    line: str = ""

    @property
    def where(self) -> str:
        """The path and the line, in one word."""
        return f"{self.path or 'the network'} ({self.line})" if self.line else self.path or "the network"
