"""What each primitive does to the reach of a value: one rule for each primitive that keeps positions apart.

A rule gets the equation and the reaches of its operands, of which one at least lies along an axis of the operand and
none is EVERY. A primitive without a rule mixes all positions, as far as this package knows.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from .flow import ELEMENTWISE
from .reach import EVERY, Reach, State, joined, reshaped

Rule = Callable[[Any, Sequence[State]], State | list[State]]
SAME_PLACE = ELEMENTWISE | frozenset(
    (
        *("acos", "acosh", "and", "asin", "asinh", "atan", "atan2", "atanh", "bitcast_convert_type", "cbrt", "cosh"),
        *("digamma", "eq", "erf_inv", "erfc", "ge", "gt", "imag", "le", "lgamma", "lt", "ne", "nextafter", "not"),
        *("or", "population_count", "real", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sinh"),
        "xor",
    )
)
REDUCTIONS = ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum")
RUNNING = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")
WINDOWS = ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")


def _same_place(eqn: Any, states: Sequence[State]) -> State | list[State]:
    if len(eqn.outvars) == len(states) > 1:  # of optimization_barrier and device_put, each output is an operand
        return list(states)
    state, shape = joined(*states), _shape(eqn.outvars[0])
    if state is None or state.axis < 0:
        return state
    length = state.outer * state.size * state.inner
    return state if shape[state.axis : state.axis + 1] == (length,) else EVERY


def _broadcast(eqn: Any, states: Sequence[State]) -> State:
    state = _first(states)
    axis = eqn.params["broadcast_dimensions"][state.axis]
    is_whole = _shape(eqn.outvars[0])[axis] == _shape(eqn.invars[0])[state.axis]
    return state.moved(axis) if is_whole else EVERY


def _reshape(eqn: Any, states: Sequence[State]) -> State:
    state, old = _first(states), _shape(eqn.invars[0])
    order = eqn.params["dimensions"]  # a vmap's reshape transposes first
    if order is not None:
        state, old = state.moved(tuple(order).index(state.axis)), tuple(old[i] for i in order)
    return reshaped(state, old, _shape(eqn.outvars[0]))


def _transpose(eqn: Any, states: Sequence[State]) -> State:
    state = _first(states)
    return state.moved(tuple(eqn.params["permutation"]).index(state.axis))


def _dropped(eqn: Any, states: Sequence[State]) -> State:
    """Return the reach after axes went away: by a sum, or because they held one number."""
    state = joined(*states) or EVERY
    if state is EVERY:
        return EVERY
    axes = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    return EVERY if state.axis in axes else state.moved(state.axis - sum(a < state.axis for a in axes))


def _running(eqn: Any, states: Sequence[State]) -> State:
    state = _first(states)
    if eqn.params["axis"] != state.axis:
        return state
    if not state.is_alone:
        return EVERY
    return state.shifted(0, inf, state.size) if eqn.params["reverse"] else state.shifted(-inf, 0, state.size)


def _pad(eqn: Any, states: Sequence[State]) -> State:
    state = states[0]
    if state is None or states[1] is not None:
        return EVERY
    before, behind, between = eqn.params["padding_config"][state.axis]
    if not (before or behind or between):
        return state
    return state.shifted(-before, -before, state.size + before + behind) if state.is_alone and not between else EVERY


def _slice(eqn: Any, states: Sequence[State]) -> State:
    state = _first(states)
    start, stop = eqn.params["start_indices"][state.axis], eqn.params["limit_indices"][state.axis]
    stride = eqn.params["strides"][state.axis] if eqn.params["strides"] else 1
    return _part(eqn, state, start, stop - start, stride)


def _split(eqn: Any, states: Sequence[State]) -> list[State]:
    state, sizes = _first(states), eqn.params["sizes"]
    if eqn.params["axis"] != state.axis:
        return [state] * len(sizes)
    return [_part(eqn, state, sum(sizes[:i]), size) for i, size in enumerate(sizes)]


def _dynamic_slice(eqn: Any, states: Sequence[State]) -> State:
    """A slice from a place that is not known before the run: the axis of positions must stay whole."""
    state = states[0]
    if state is None or any(s is not None for s in states[1:]):
        return EVERY
    return state if eqn.params["slice_sizes"][state.axis] == _shape(eqn.invars[0])[state.axis] else EVERY


def _dynamic_update_slice(eqn: Any, states: Sequence[State]) -> State:
    state = joined(*states[:2])
    if state is None or state is EVERY or any(s is not None for s in states[2:]):
        return EVERY
    return state if _shape(eqn.invars[0])[state.axis] == _shape(eqn.invars[1])[state.axis] else EVERY


def _part(eqn: Any, state: Reach, start: int, size: int, stride: int = 1) -> State:
    if (start, size, stride) == (0, _shape(eqn.invars[0])[state.axis], 1):
        return state
    return state.shifted(start, start, size) if state.is_alone and stride == 1 else EVERY


def _concatenate(eqn: Any, states: Sequence[State]) -> State:
    axis, start, pieces = eqn.params["dimension"], 0, []
    size = _shape(eqn.outvars[0])[axis]
    for state, operand in zip(states, eqn.invars, strict=True):
        if state is not None and state.axis == axis:
            state = state.shifted(-start, -start, size) if state.is_alone else EVERY
        pieces.append(state)
        start += _shape(operand)[axis]
    return joined(*pieces)


def _convolution(eqn: Any, states: Sequence[State]) -> State:
    state, spec = states[0], eqn.params["dimension_numbers"]
    if state is None or states[1] is not None or eqn.params["batch_group_count"] != 1:
        return EVERY
    place = spec.lhs_spec.index(state.axis)
    if place == 0:
        return state.moved(spec.out_spec[0])
    if place == 1:
        return EVERY
    i = place - 2
    width = _shape(eqn.invars[1])[spec.rhs_spec[place]]
    size = _shape(eqn.outvars[0])[spec.out_spec[place]]
    dilation, base = eqn.params["rhs_dilation"], eqn.params["lhs_dilation"]
    state = _window(state, eqn.params, i, width, dilation, base, size)
    return state if state is EVERY else state.moved(spec.out_spec[place])


def _reduce_window(eqn: Any, states: Sequence[State]) -> State:
    state = states[0]
    if state is None or any(s is not None for s in states[1:]):
        return EVERY
    params, i = eqn.params, state.axis
    width, size = params["window_dimensions"][i], _shape(eqn.outvars[0])[i]
    return _window(state, params, i, width, params["window_dilation"], params["base_dilation"], size)


def _window(state: Reach, params: Any, i: int, width: int, dilation: Any, base: Any, size: int) -> Reach:
    """Return the reach of a sum over a window of `width` positions; the window's steps must be those of the input."""
    if width == 1 and tuple(params["padding"][i]) == (0, 0) and params["window_strides"][i] == base[i] == 1:
        return state
    if not state.is_alone or params["window_strides"][i] != 1 or base[i] != 1:
        return EVERY
    before = params["padding"][i][0]
    return state.shifted(-before, (width - 1) * dilation[i] - before, size)


def _dot(eqn: Any, states: Sequence[State]) -> State:
    contracted, batch = eqn.params["dimension_numbers"]
    outs: list[State] = []
    for number, state in enumerate(states):
        if state is None:
            continue
        if state.axis in contracted[number]:
            return EVERY
        if state.axis in batch[number]:
            outs.append(state.moved(tuple(batch[number]).index(state.axis)))
            continue
        free = [d for d in range(len(_shape(eqn.invars[number]))) if d not in (*contracted[number], *batch[number])]
        before = len(batch[0]) + number * (len(_shape(eqn.invars[0])) - len(contracted[0]) - len(batch[0]))
        outs.append(state.moved(before + free.index(state.axis)))
    return joined(*outs)


def _gather(eqn: Any, states: Sequence[State]) -> State:
    """Rows of a table by number (an embedding), or parts of a tensor in which the axis of positions stays whole."""
    numbers, out = eqn.params["dimension_numbers"], _shape(eqn.outvars[0])
    operand, indices = states
    if operand is None and indices is not None:
        if indices.axis == len(_shape(eqn.invars[1])) - 1 or numbers.operand_batching_dims:
            return EVERY
        kept = [d for d in range(len(out)) if d not in numbers.offset_dims]
        return indices.moved(kept[indices.axis])
    if operand is None or indices is not None:
        return EVERY
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    if operand.axis in gone or eqn.params["slice_sizes"][operand.axis] != _shape(eqn.invars[0])[operand.axis]:
        return EVERY
    return operand.moved(numbers.offset_dims[operand.axis - sum(d < operand.axis for d in gone)])


def _mixing(axes: Callable[[Any], Sequence[int]]) -> Rule:
    """Return the rule of a primitive that mixes these axes and leaves all others apart."""

    def rule(eqn: Any, states: Sequence[State]) -> list[State]:
        state = joined(*states)
        mixed = state is None or state.axis in axes(eqn)
        return [EVERY if mixed else state] * len(eqn.outvars)

    return rule


def _first(states: Sequence[State]) -> Reach:
    """Return the reach of the first operand; EVERY would not come here, and neither would a constant alone."""
    return states[0] if states[0] is not None else EVERY


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME_PLACE, _same_place),
    **dict.fromkeys(REDUCTIONS, _dropped),
    **dict.fromkeys(RUNNING, _running),
    **dict.fromkeys(WINDOWS, _reduce_window),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _dropped,
    "transpose": _transpose,
    "rev": _mixing(lambda eqn: eqn.params["dimensions"]),
    "sort": _mixing(lambda eqn: (eqn.params["dimension"],)),
}
