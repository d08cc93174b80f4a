"""Which kernel size each ECA of a network gets."""

from collections.abc import Sequence

from eca_multi._errors import check_odd
from eca_multi._kernel import eca_kernel_size

from .catalogue import Network

KernelSizes = str | Sequence[int] | None


def kernel_sizes(network: Network, wanted: KernelSizes = None) -> tuple[int, ...]:
    """Return one size per ECA, in the order of the network's blocks.

    Args:
        network: One of NETWORKS.
        wanted: "published", the sizes of the released weights; "adaptive", the rule on the gated width, at least 3
            (timm's choice); or a sequence of odd sizes, one per stage or one per ECA. None is "published".

    Raises:
        TypeError: If `wanted` is of another kind.
        ValueError: If it is another name, or of a wrong length, or holds an even size.
    """
    stages = [block.stage for block in network.blocks]
    if wanted is None or wanted == "published":
        if network.kernels is not None:
            return tuple(network.kernels[stage] for stage in stages)
        wanted = "adaptive"
    if wanted == "adaptive":
        widths = [block.outputs for block in network.blocks]
        rule = {width: eca_kernel_size(width, min_size=3) for width in set(widths)}
        return tuple(rule[width] for width in widths)
    if isinstance(wanted, str):
        raise _unknown(ValueError, wanted)
    if not isinstance(wanted, list | tuple):
        raise _unknown(TypeError, wanted)
    sizes = tuple(check_odd(f"kernel_sizes[{i}]", size) for i, size in enumerate(wanted))
    if len(sizes) == len(stages):
        return sizes
    if len(sizes) == len(network.depths):
        return tuple(sizes[stage] for stage in stages)
    raise ValueError(
        f"kernel_sizes must have {len(network.depths)} entries (one per stage) or {len(stages)} (one per ECA) for "
        f"{network.name}. Received: {len(sizes)}. The blocks per stage are {network.depths}."
    )


def _unknown(error: type[Exception], received: object) -> Exception:
    return error(
        f"kernel_sizes must be 'published', 'adaptive' or a list of odd integers. "
        f"Received: kernel_sizes={received!r}. The released weights need 'published'."
    )
