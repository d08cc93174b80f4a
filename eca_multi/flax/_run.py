"""What the surgery of linen and of nnx share about a run: its inputs, its outputs, and which outputs ECA can gate."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi._parsing import reason_of
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.surgery.reasons import TOKENS

Shape = tuple[int, ...]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def split_inputs(example_inputs: Any) -> Inputs:
    """Return positional and keyword inputs.

    Raises:
        TypeError: If the inputs hold no array.
    """
    inputs: Inputs = (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}
    if isinstance(example_inputs, dict):
        inputs = (), dict(example_inputs)
    if not any(map(_is_array, jax.tree.leaves(inputs))):
        raise TypeError(
            "example_inputs must be one array, a tuple of positional inputs or a dict of keywords. "
            f"Received: {type(example_inputs).__name__} without an array. Zeros of the right shape will do."
        )
    return inputs


def split_arrays(inputs: Inputs) -> tuple[Callable[[Any], Inputs], list[Any]]:
    """Return the arrays, and a function that puts arrays in their places; other leaves (a train flag) stay."""
    leaves, tree = jax.tree.flatten(inputs)
    numbers = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    def fill(arrays: Any) -> Inputs:
        filled = dict(enumerate(leaves)) | dict(zip(numbers, arrays, strict=True))
        args, kwargs = jax.tree.unflatten(tree, filled.values())
        return args, kwargs

    return fill, [leaves[i] for i in numbers]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def is_abstract(tree: Any) -> bool:
    """Whether shapes stand for values somewhere."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def check_whole(what: str, tree: Any) -> None:
    """Refuse a tree that holds shapes in one part and arrays in the other: it can neither be run nor stay abstract."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    away = [path for path, leaf in leaves if is_abstract(leaf)]
    if 0 < len(away) < len(leaves):
        first = jax.tree_util.keystr(away[0], simple=True, separator="/").removesuffix("/value")
        raise UnsupportedModelError(
            f"{what} must hold arrays alone or shapes alone. Received: {len(away)} of {len(leaves)} as shapes, {first} "
            "the first. Load these before."
        )


def are_equal(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether all bits of the arrays are equal; a NaN equals a NaN of the same bits."""
    return [_bits(array) for array in before] == [_bits(array) for array in after]


def numbers(tree: Any) -> list[np.ndarray]:
    """Return the arrays of a network's outputs in NumPy; narrow floats as float32, which NumPy can compare."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    narrow = (jnp.bfloat16, jnp.float16)
    return [np.asarray(array.astype(jnp.float32) if array.dtype in narrow else array) for array in arrays]


def has_nan(arrays: Sequence[Any]) -> bool:
    return any(jnp.issubdtype(array.dtype, jnp.inexact) and bool(jnp.isnan(array).any()) for array in arrays)


def _bits(array: Any) -> tuple[Any, ...]:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    return array.shape, array.dtype, array.tobytes()


def unfit(shapes: Sequence[Shape | None], ranks: Collection[int], axis: int | None) -> str:
    """Return why ECA cannot gate a module with outputs of these shapes; "" if it can.

    Args:
        shapes: Of the output of each call; None where the output is not one array.
        ranks: Of the outputs of the network's convolutions.
        axis: Of the channels; None if unknown.
    """
    shape = shapes[0]
    if shape is None:
        return "its output is not one array"
    if len(shape) < 3:
        return f"its output has rank {len(shape)}, which has no spatial axes"
    if ranks and len(shape) not in ranks and len(shape) > 3:
        return f"its output has rank {len(shape)}, which no convolution's has"
    if axis is not None and axis not in (1, len(shape) - 1):
        return f"its channels are at axis {axis} of {shape}"
    if len({other and other[-1 if axis != 1 else 1] for other in shapes}) > 1:
        return "its calls have different numbers of channels"
    return ""


def tokens(path: str, shapes: Sequence[Shape | None], ranks: Collection[int]) -> str:
    """Return the reason why the channel axis of a site is not taken as known: a sequence among maps of higher rank.

    A user's `channel_axis` takes such a site all the same. Arguments as for `unfit`.
    """
    shape = shapes[0]
    is_sequence = shape is not None and len(shape) == 3 and bool(ranks) and 3 not in ranks
    return TOKENS.format(path=path) if is_sequence else ""


def does_not_run(what: str, error: Exception, remedy: str = "") -> UnsupportedModelError:
    """Return the error for a network that raises on the example inputs; `remedy` where the inputs are not to blame."""
    reason = f"{type(error).__name__}: {reason_of(error).rstrip('.')}"
    inputs = f"Pass what the {what} is called with: an array, a tuple of positional inputs or a dict of keywords."
    return UnsupportedModelError(
        f"{what} must run on example_inputs while JAX traces it. Received: {reason}. {remedy or inputs}"
    )


def unbound_axis(what: str, error: NameError) -> UnsupportedModelError:
    """Return the error for a network that JAX cannot trace alone: in training a BatchNorm averages over devices."""
    return UnsupportedModelError(
        f"{what} must run on example_inputs by itself. Received: {str(error).rstrip('.')}. "
        "A BatchNorm with axis_name needs jax.vmap or jax.shard_map around it in training mode: plan in evaluation "
        "mode, in which the sites are the same."
    )


def stacked_note(stack: Shape) -> tuple[str, ...]:
    """Return the note about a block whose variables are stacked along these axes; no note for one block."""
    return (f"stacked {'x'.join(map(str, stack))}: a kernel for each",) if stack else ()
