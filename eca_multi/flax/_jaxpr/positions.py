"""Whether a network keeps the positions of an axis in order or apart, proved from the jaxpr of one run.

The proof is one-sided: what it calls causal is causal for all weights and inputs, and what it does not is not known. An
attention under a mask, a masked kernel, a stride there and back are beyond it; the probe of the surgery tries those.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from .flow import _inner
from .reach import EVERY, STEPS, Reach, State, joined, widened
from .reach_rules import RULES
from .tags import Mark, read_mark

Shape = tuple[int, ...]


@dataclass
class Positions:
    """One axis of a network's input, followed to the outputs and to the modules' outputs.

    Args:
        axis: Of the inputs.
        size: Number of positions.
        outputs: The reach and the shape of each output.
        modules: By path, those of the first array of each of the module's outputs; with the axes of each vmap.
    """

    axis: int
    size: int
    outputs: list[tuple[State, Shape]] = field(default_factory=list)
    modules: dict[str, list[tuple[State, Shape]]] = field(default_factory=dict)

    @property
    def is_causal(self) -> bool:
        """Whether no output looks ahead, and one at least has the positions of the input."""
        return self._all(lambda state: state.is_causal)

    @property
    def is_each(self) -> bool:
        """Whether each position of the outputs was made of the input's same position alone."""
        return self._all(lambda state: state.is_each)

    def _all(self, holds: Any) -> bool:
        states = [state for state, _ in self.outputs if state is not None]
        return bool(states) and all(state.size == self.size and holds(state) for state in states)


def positions(
    jaxpr: ClosedJaxpr, inputs: Sequence[int], axis: int, settled: Collection[str] = (), results: int | None = None
) -> Positions:
    """Follow one axis of a network's inputs through a run.

    Args:
        jaxpr: Of the run, with tags.
        inputs: Which of the jaxpr's arguments are the network's inputs. The first one with the most axes leads; another
            one has positions if it has as many of them along the same axis, and counts as a constant otherwise.
        axis: Of the leading input.
        results: How many of the jaxpr's outputs count, the first ones; None for all.
        settled: Paths of modules that leave positions apart once trained, whatever they do in this run: batch norms.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eca_multi.flax._jaxpr.positions import positions
        >>> def shift(x):
        ...     return x + jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        >>> positions(jax.make_jaxpr(shift)(jnp.zeros((1, 8, 2))), [0], axis=1).is_causal
        True
    """
    shapes = [tuple(jaxpr.jaxpr.invars[i].aval.shape) for i in inputs]
    size = max(shapes, key=len)[axis]
    reader = _Reader(settled)
    states: list[State] = [None] * len(jaxpr.jaxpr.invars)
    for i, shape in zip(inputs, shapes, strict=True):
        states[i] = Reach(axis, 0, 0, size) if len(shape) > axis and shape[axis] == size else None
    outputs = reader.read(jaxpr.jaxpr, [*[None] * len(jaxpr.jaxpr.constvars), *states], 0)
    ends = [tuple(getattr(v.aval, "shape", ())) for v in jaxpr.jaxpr.outvars]
    return Positions(axis, size, list(zip(outputs, ends, strict=True))[:results], reader.modules)


class _Reader:
    """Reads a jaxpr and all inner ones; `depth` counts the scans around."""

    def __init__(self, settled: Collection[str]) -> None:
        self.settled = settled
        self.modules: dict[str, list[tuple[State, Shape]]] = {}
        self.entered: dict[str, State] = {}
        self.turns = 0  # of loops that are not settled yet, whose tags do not count

    def read(self, jaxpr: Any, arguments: Sequence[State], depth: int) -> list[State]:
        known: dict[Any, State] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))
        for eqn in jaxpr.eqns:
            states = [None if isinstance(atom, Literal) else known[atom] for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, states, depth), strict=True))
        return [None if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, states: list[State], depth: int) -> list[State]:
        name, params = eqn.primitive.name, eqn.params
        if name == "name" and (mark := read_mark(params["name"])) is not None:
            return [self._tag(mark, states[0], tuple(eqn.outvars[0].aval.shape))]
        if name == "scan":
            return self._scan(eqn, states, depth)
        if name == "while":
            return self._while(eqn, states, depth)
        if name == "cond":
            branches = [self._call(branch, states[1:], depth) for branch in params["branches"]]
            return [joined(states[0], *outs) for outs in zip(*branches, strict=True)]
        inner = None if name == "shard_map" else _inner(params, len(states))
        if inner is not None:
            return self._call(inner, states, depth)
        known = [state for state in states if state is not None]
        both = joined(*known)
        if both is None or EVERY in known or both.axis <= STEPS:
            return [both if EVERY not in known else EVERY] * len(eqn.outvars)
        if any(state.axis < 0 for state in known) or name not in RULES:
            return [EVERY] * len(eqn.outvars)
        out = RULES[name](eqn, states)
        return out if isinstance(out, list) else [out] * len(eqn.outvars)

    def _call(self, jaxpr: Any, states: Sequence[State], depth: int) -> list[State]:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        return self.read(inner, [*[None] * len(inner.constvars), *states], depth)

    def _tag(self, mark: Mark, state: State, shape: Shape) -> State:
        if mark.kind == "in":
            if mark.leaf == 0:
                self.entered[mark.path] = state
            return state
        if mark.leaf == 0 and mark.path in self.settled and mark.path in self.entered:
            state = self.entered[mark.path]
        if mark.leaf == 0 and not self.turns:
            self.modules.setdefault(mark.path, []).append((state, shape))
        return state

    # --- loops ---------------------------------------------------------------------------------------------------

    def _scan(self, eqn: Any, states: list[State], depth: int) -> list[State]:
        """Read a scan's body until what it carries is settled: over the positions, a step sees the steps before it."""
        params, step = eqn.params, STEPS - depth
        consts, carry = params["num_consts"], params["num_carry"]
        slices = [_sliced(state, step) for state in states[consts + carry :]]
        start = states[consts : consts + carry]

        def body(carried: Sequence[State]) -> list[State]:
            return self._call(params["jaxpr"], [*states[:consts], *carried, *slices], depth + 1)

        def after(out: State) -> State:
            if out is None or out.axis != step:
                return out
            return (
                replace(out, low=out.low + 1, high=inf)
                if params["reverse"]
                else replace(out, low=-inf, high=out.high - 1)
            )

        carried = self._settled(body, start, after)
        outs = body(carried)
        last = [
            EVERY if state is not None and state.axis == step else state
            for state in map(joined, start, (after(out) for out in outs[:carry]))
        ]
        return [*last, *(_stacked(out, step) for out in outs[carry:])]

    def _while(self, eqn: Any, states: list[State], depth: int) -> list[State]:
        params = eqn.params
        asks, consts = params["cond_nconsts"], params["body_nconsts"]
        start = states[asks + consts :]

        def body(carried: Sequence[State]) -> list[State]:
            return self._call(params["body_jaxpr"], [*states[asks : asks + consts], *carried], depth)

        carried = self._settled(body, start, lambda out: out)
        asked = self._call(params["cond_jaxpr"], [*states[:asks], *carried], depth)[0]
        return [joined(asked, *both) for both in zip(start, body(carried), strict=True)]

    def _settled(self, body: Any, start: Sequence[State], after: Any) -> list[State]:
        """Return the reaches that a loop carries, once another turn changes none of them."""
        carried = list(start)
        self.turns += 1
        try:
            for _ in range(4 * len(carried) + 1):  # each of them can change four times: to a reach, both ends, EVERY
                turned = [widened(old, after(out)) for old, out in zip(carried, body(carried), strict=False)]
                if turned == carried:
                    return carried
                carried = turned
            return [state and EVERY for state in carried]
        finally:
            self.turns -= 1


def _sliced(state: State, step: int) -> State:
    """Return the reach of one step's part of what a scan runs over."""
    if state is None or state.axis < 0:
        return state
    if state.axis > 0:
        return state.moved(state.axis - 1)
    return Reach(step, state.low, state.high, state.size) if state.is_alone else EVERY


def _stacked(state: State, step: int) -> State:
    """Return the reach of what a scan makes of its steps' outputs."""
    if state is None or step < state.axis < 0 or state.axis < step:
        return state
    return state.moved(0 if state.axis == step else state.axis + 1)
