"""The checks of a network's keywords and input, which all builders share."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

from eca_multi._errors import check_positive_int


def check_options(
    num_classes: SupportsIndex, in_channels: SupportsIndex, global_pool: str | None, drop_path: float, dims: int
) -> None:
    """Check a builder's keywords.

    Raises:
        TypeError, ValueError: If one is of another type or out of range.
    """
    check_positive_int("in_channels", in_channels)
    if num_classes != 0:  # 0 leaves the classifier out
        check_positive_int("num_classes", num_classes)
    if global_pool not in ("avg", "max", None):
        raise ValueError(
            f"global_pool must be 'avg', 'max' or None. Received: global_pool={global_pool!r}. "
            "None returns the last feature map."
        )
    if isinstance(drop_path, bool) or not isinstance(drop_path, int | float):
        raise TypeError(f"drop_path must be a number in [0, 1). Received: drop_path={drop_path!r}. 0.0 drops nothing.")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path must be in [0, 1). Received: drop_path={drop_path!r}. 0.0 drops nothing.")
    if isinstance(dims, bool) or dims not in (1, 2):
        raise ValueError(f"dims must be 1 or 2. Received: dims={dims!r}. 1 is for signals, 2 for images.")


def drop_rates(drop_path: float, blocks: int) -> list[float]:
    """Return each block's probability of being skipped in training: from 0, linear in depth, to `drop_path`."""
    return [drop_path * i / max(blocks - 1, 1) for i in range(blocks)]


def check_input(shape: Sequence[Any], in_channels: int, dims: int, channel_axis: int) -> None:
    """Check the shape of a network's input; an unknown extent (None) passes.

    Raises:
        ValueError: If it has another rank or number of channels.
    """
    layout = ["N", *("HW" if dims == 2 else "L")]
    layout.insert(1 if channel_axis == 1 else len(layout), "C")
    expected = f"x must be of shape ({', '.join(layout)}) with {in_channels} channels"
    if len(shape) != dims + 2:
        remedy = "Add or remove axes."
        if len(shape) in (3, 4):
            remedy = f"Build the network with dims={len(shape) - 2}, or add the missing axis."
        raise ValueError(f"{expected}. Received: rank {len(shape)}, shape {tuple(shape)}. {remedy}")
    if shape[channel_axis] is not None and shape[channel_axis] != in_channels:
        raise ValueError(
            f"{expected}. Received: {shape[channel_axis]} channels, shape {tuple(shape)}. "
            "Build the network with in_channels, or move the channel axis."
        )
