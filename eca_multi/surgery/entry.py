"""The lines of a plan: one ECA, or one site that gets none."""

from dataclasses import dataclass

ACTIONS = ("after", "before_add", "replace", "fill")
LAYOUTS = ("channels_first", "channels_last")


@dataclass(frozen=True)
class ECAEntry:
    """One ECA: where it stands and what it is.

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

    Example:
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> ECAEntry("layer1.0.bn2", channels=64, kernel_size=3, parameters=3).layout
        'channels_first'
    """

    path: str
    action: str = "after"
    module_type: str = ""
    tensor: str = ""
    channels: int = 0
    layout: str = "channels_first"
    kernel_size: int = 1
    parameters: int = 1
    into: str = ""
    aliases: tuple[str, ...] = ()
    calls: int | None = None
    keeps_output: bool = True
    notes: tuple[str, ...] = ()

    @property
    def channel_axis(self) -> int:
        return 1 if self.layout == "channels_first" else -1


@dataclass(frozen=True)
class Skipped:
    """A candidate that was not taken, and why.

    Example:
        >>> from eca_multi.surgery.entry import Skipped
        >>> Skipped("layer1.0.bn2", "in exclude").reason
        'in exclude'
    """

    path: str
    reason: str
