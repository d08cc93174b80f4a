"""The checks of ECA's arguments and shapes, and the text of their messages: every framework calls these.

Each message says which argument is invalid, what the check expected, what it received and the remedy. A wrong type
raises TypeError, a wrong value ValueError. The functions take plain Python values (shapes, names, flags), never a
framework's tensor.
"""

import numbers
import operator
from collections.abc import Callable, Sequence, Sized
from decimal import Decimal
from fractions import Fraction
from typing import Any, SupportsIndex

PADDINGS = ("zeros", "circular")
GATES = ("sigmoid", "hard_sigmoid", "2sigmoid")
INITS = ("uniform", "identity")
_AXIS_REMEDY = "Use 1 for channels first, -1 for channels last."


def _text(name: str, expected: str, received: object, remedy: str) -> str:
    return f"{name} must be {expected}. Received: {received}. {remedy}"


# --- numbers -----------------------------------------------------------------------------------------------------


def check_positive_int(name: str, value: SupportsIndex) -> int:
    """Return `value` as an int >= 1; integers of NumPy count, bool and 64.0 do not."""
    number = _integer(name, value, "a positive integer", "Pass an int, for example 64.")
    if number < 1:
        raise ValueError(_text(name, "a positive integer", f"{name}={value!r}", "Pass 1 or more."))
    return number


def check_odd(name: str, value: SupportsIndex) -> int:
    expected = "an odd positive integer"
    number = _integer(name, value, expected, "Pass an int, for example 3.")
    if number < 1:
        raise ValueError(_text(name, expected, f"{name}={value!r}", "Pass 1, 3, 5, ..."))
    if number % 2 == 0:
        remedy = f"An even kernel has no centre channel; use {number - 1} or {number + 1}."
        raise ValueError(_text(name, expected, f"{name}={value!r}", remedy))
    return number


def check_gamma(value: object) -> Fraction:
    return _rational("gamma", value, "> 0", "The paper uses 2.")


def check_beta(value: object) -> Fraction:
    return _rational("beta", value, ">= 0", "The paper uses 1.")


def _integer(name: str, value: SupportsIndex, expected: str, remedy: str) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(_text(name, expected, f"{name}={value!r}", remedy))


def _rational(name: str, value: Any, bound: str, remedy: str) -> Fraction:
    expected, received = f"a finite number {bound}", f"{name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise TypeError(_text(name, expected, received, "Pass an int or a float."))
    try:
        # The shortest decimal of a float is what its author wrote: 0.1 means one tenth, so ties fall as written.
        number = value if isinstance(value, Fraction) else Fraction(str(value))
    except ValueError:  # nan and inf are the only floats that are no decimal
        raise ValueError(_text(name, expected, received, "NaN and infinity have no kernel size.")) from None
    if number < 0 or (number == 0 and bound == "> 0"):
        raise ValueError(_text(name, expected, received, remedy))
    return number


# --- options -----------------------------------------------------------------------------------------------------


def _check_name(name: str, value: object, names: Sequence[str], remedy: str, *others: str) -> None:
    if value not in names:
        expected = " or ".join((*map(repr, names), *others))
        error = ValueError if isinstance(value, str) else TypeError
        raise error(_text(name, expected, f"{name}={value!r}", remedy))


def check_padding(padding: str) -> None:
    _check_name("padding", padding, PADDINGS, "The paper uses 'zeros'.")


def check_gate(gate: str | Callable[..., Any]) -> None:
    if not callable(gate):
        _check_name("gate", gate, GATES, "The paper uses 'sigmoid'.", "a callable")


def check_gate_shape(received: Sequence[Any], logits: Sequence[Any]) -> None:
    """Check that a callable gate kept the shape: the product would broadcast another shape into y."""
    if tuple(received) != tuple(logits):
        remedy = "Use a function that works element by element."
        raise ValueError(_text("gate", f"a function that keeps the shape {tuple(logits)}", tuple(received), remedy))


def check_axis_names(axis_name: str | tuple[str, ...] | None, channel_axis_name: str | None) -> None:
    """Check the names of mesh axes; JAX itself checks that the mesh has them."""
    names = axis_name if isinstance(axis_name, tuple) else () if axis_name is None else (axis_name,)
    if not all(isinstance(name, str) for name in names):
        remedy = "Name the mesh axes over which the positions of a sample are spread, for example 'space'."
        raise TypeError(_text("axis_name", "a string, a tuple of strings or None", f"axis_name={axis_name!r}", remedy))
    if not isinstance(channel_axis_name, str | None):
        remedy = "Name the one mesh axis over which the channels are spread, for example 'model'."
        received = f"channel_axis_name={channel_axis_name!r}"
        raise TypeError(_text("channel_axis_name", "a string or None", received, remedy))
    if channel_axis_name in names:
        remedy = "A mesh axis spreads the positions or the channels, not both."
        received = f"channel_axis_name={channel_axis_name!r} with axis_name={axis_name!r}"
        raise ValueError(_text("channel_axis_name", "another mesh axis than those of axis_name", received, remedy))


def check_init(init: str, gate: str | Callable[..., Any], name: str = "init", *others: str) -> None:
    """Check the name of an initial kernel; `others` say what else the layer takes there."""
    _check_name(name, init, INITS, "The default is 'uniform'.", *others)
    if init == "identity" and gate != "2sigmoid":
        remedy = "Only 2*sigmoid is exactly 1 at zero; with another gate a zero kernel would change the output."
        raise ValueError(_text("gate", f"'2sigmoid' when {name}='identity'", f"gate={gate!r}", remedy))


# --- shapes ------------------------------------------------------------------------------------------------------


def check_floating(name: str, is_floating: bool, value: object) -> None:
    if not is_floating:
        remedy = "Convert it first, for example to float32."
        raise TypeError(_text(name, "a real floating-point tensor", _kind(value), remedy))


def several_tensors(name: str, value: object) -> TypeError:
    """Return the error for a list, tuple or dict of tensors where one is expected."""
    received = f"a {type(value).__name__} of {len(value)}" if isinstance(value, Sized) else type(value).__name__
    return TypeError(_text(name, "one tensor", received, "Call the layer once for each tensor."))


def _kind(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return type(value).__name__
    return f"dtype {getattr(dtype, 'name', str(dtype).removeprefix('torch.'))}"


def check_channel_axis(channel_axis: SupportsIndex, shape: Sequence[Any]) -> int:
    """Check the rank, the channel axis and that it holds a channel; return the axis counted from the front."""
    rank = len(shape)
    if rank < 3:
        remedy = "Add the missing axes: ECA averages over the spatial axes of (N, C, *S) or (N, *S, C)."
        raise ValueError(_text("x", "of rank 3 or more", f"rank {rank}, shape {tuple(shape)}", remedy))
    axis, remedy = check_axis_type(channel_axis), _AXIS_REMEDY
    if not -rank <= axis < rank:
        expected = f"in [-{rank}, {rank}) for rank {rank}"
        raise ValueError(_text("channel_axis", expected, f"channel_axis={axis}", remedy))
    if axis % rank == 0:
        received = f"channel_axis={axis} for rank {rank}"
        raise ValueError(_text("channel_axis", "another axis than the batch axis 0", received, remedy))
    if shape[axis] is not None and shape[axis] == 0:
        remedy = "Without a channel there is nothing to gate; look at what x was made from."
        raise ValueError(_text("x", "of one channel or more", f"shape {tuple(shape)}", remedy))
    return axis % rank


def check_axis_type(channel_axis: SupportsIndex) -> int:
    return _integer("channel_axis", channel_axis, "an integer", _AXIS_REMEDY)


def spatial_axes(axis: int, shape: Sequence[Any]) -> tuple[int, ...]:
    """Return the axes to average over. An extent of 0 has no mean and raises; an unknown extent (None) passes."""
    axes = tuple(i for i in range(1, len(shape)) if i != axis)
    for i in axes:
        if shape[i] is not None and shape[i] == 0:
            remedy = "The mean over no position is undefined; drop such samples."
            raise ValueError(
                _text("x", "non-empty in every spatial axis that is pooled", f"shape {tuple(shape)}", remedy)
            )
    return axes


def check_channels(channels: int, axis: int, shape: Sequence[Any]) -> None:
    if shape[axis] != channels:
        remedy = "Build the layer for that many channels, or set channel_axis (data_format in Keras)."
        received = f"{shape[axis]} channels at axis {axis} of shape {tuple(shape)}"
        raise ValueError(_text("x", f"of {channels} channels", received, remedy))


def check_known_channels(channels: int | None, shape: Sequence[Any]) -> int:
    """Return the number of channels; a layer that infers it needs a static one."""
    if channels is None:
        remedy = "Give the channel axis of the Input a size."
        raise ValueError(_text("the number of channels", "known when the layer is built", tuple(shape), remedy))
    return channels


def check_kernel(kernels: int | None, size: int | None, channels: Any, shape: Sequence[Any]) -> int:
    """Check a weight of `kernels` kernels and `size` taps (None: the layout is unknown), and return the size."""
    expected = "one kernel of k taps or one per channel, in the layout of its framework"
    if kernels is None or size is None:
        remedy = "See the weight table in docs/weights.md."
        raise ValueError(_text("weight", expected, f"shape {tuple(shape)}", remedy))
    if kernels != 1 and kernels != channels:
        remedy = "An ECA-NS weight has one kernel for each channel of x."
        received = f"{kernels} kernels (shape {tuple(shape)}) for {channels} channels"
        raise ValueError(_text("weight", expected, received, remedy))
    return check_odd("kernel_size", size)


def check_circular(padding: str, kernel_size: int, channels: Any) -> None:
    if padding == "circular" and kernel_size // 2 > channels:
        remedy = "The window would wrap around more than once; use padding='zeros' or a smaller kernel."
        expected = "at most 2*channels + 1 with padding='circular'"
        received = f"kernel_size={kernel_size} for {channels} channels"
        raise ValueError(_text("kernel_size", expected, received, remedy))


def check_mask(is_bool: bool, mask: Any, axis: int, x_shape: Sequence[Any]) -> None:
    """Check a mask against x's shape without its channel axis; an unknown extent (None) on either side fits."""
    if not is_bool:
        remedy = "True marks the positions to average over; compare first, for example positions < lengths."
        raise TypeError(_text("mask", "a boolean tensor", _kind(mask), remedy))
    shape = (*x_shape[:axis], *x_shape[axis + 1 :])
    mask_shape = tuple(mask.shape)
    pairs = zip(reversed(mask_shape), reversed(shape), strict=False)
    fits = all(m is None or s is None or m == 1 or m == s for m, s in pairs)
    if len(mask_shape) > len(shape) or not fits:
        remedy = "A mask has x's shape without the channel axis: (N, *S)."
        raise ValueError(_text("mask", f"broadcastable to {shape}", f"shape {mask_shape}", remedy))


# --- installation --------------------------------------------------------------------------------------------------


class NotInstalled(ImportError):
    """A package that an extra of eca-multi would install is missing; the text names the extra."""


def not_installed(package: str, module: str, extra: str) -> str:
    return f'{package} needs {module}, which is not installed. Run: pip install "eca-multi[{extra}]"'
