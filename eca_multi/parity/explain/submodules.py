"""Where a port goes wrong: the first submodule that differs from its twin in the reference, by itself.

Both models run again with every submodule recorded. A pair that differs as it came (propagated) is run once more on
what goes into the reference's submodule (isolated). The first that fails in isolation is the culprit: its inner
submodules are right, since they return before it, and so is all that came before.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from typing import Any

import numpy as np

from eca_multi.parity.budget.of_models import quantities, solve, tap_of
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.dtypes import quantise
from eca_multi.parity.define.structures import flatten
from eca_multi.parity.define.tensor import Kind, Quantity, Solution, Tensor
from eca_multi.parity.judge.compare import Judgement, Verdict, judge
from eca_multi.parity.judge.ported import CASE, PORT, Side
from eca_multi.parity.models import Call, Given, Model
from eca_multi.parity.models.elsewhere import Elsewhere
from eca_multi.parity.models.graph import Graph
from eca_multi.parity.models.layouts import Layouts, Order, aligned
from eca_multi.parity.models.pairing import Pair, pairs

from .backward import Wrong, find_backward, say_size
from .hypotheses.cause import say_causes
from .localize import FAILS, Localisation

MOST = 24  # pairs that are run in isolation
NOTHING = Wrong()
WHOLE = "the whole function"
NONE = "first divergence: none, when both are run again with their submodules recorded"


@dataclass(frozen=True)
class Step:
    """A pair of submodules, judged as it came and, where that fails, in isolation."""

    pair: Pair
    propagated: Judgement
    isolated: Judgement | None = None
    direction: str = "forward"

    @property
    def place(self) -> str:
        return self.pair.place

    def plain(self) -> dict[str, Any]:
        """Return the step as JSON's types."""
        verdict = (self.isolated or self.propagated).verdict
        return {
            "tap": self.pair.reference.name,
            "direction": self.direction,
            "propagated": self.propagated.budget_use,
            "isolated": self.isolated.budget_use if self.isolated else None,
            "verdict": str(verdict),
        }


def localise(reference: Side, port: Side, dtype: str, layouts: Layouts, wrong: Wrong = NOTHING) -> Localisation:
    """Run both again, and find the first submodule that goes wrong; `wrong` holds the gradients that differ."""
    solution = solve(reference.model, reference.inputs, dtype, reference.cotangents, record=True)
    ours = reference.model.run(reference.inputs, "float64", reference.cotangents, record=True).calls
    theirs = port.model.run(port.inputs, dtype, port.cotangents, record=True).calls
    steps: list[Step] = []
    culprit: Step | None = None
    cause, tried = "", 0
    for pair in pairs(ours, theirs, layouts.usual):
        propagated = _judged(pair, pair.port, Kind.TAP, solution, layouts.inverse)
        alone = None
        if propagated.verdict in FAILS and culprit is None and tried < MOST:
            alone = _isolated(pair, reference, port, dtype, layouts)
            tried += 1
        steps.append(Step(pair, propagated, alone.judgement if alone else None))
        if alone is not None and alone.judgement.verdict in FAILS:
            given = Given(pair.reference.key, alone.inputs)
            about = alone.solution, alone.found, tap_of(pair.reference.key, pair.names[0]), dtype
            culprit, cause = steps[-1], causes_of(reference.model, reference.inputs, given, *about)
        elif alone is None and _is_first_failing(steps):  # its inputs fit nowhere, and all that it gets agrees
            culprit = steps[-1]
    if not steps and (whole := _whole(reference, port, dtype, layouts)) is not None:
        return whole
    if not any(step.propagated.verdict in FAILS for step in steps):
        back = _backward(steps, solution, layouts)
        arrived = {step.pair.reference.key: step.propagated for step in back}
        graph = Graph(ours, flatten("x", reference.inputs))
        found = find_backward(graph, [step.pair for step in steps], arrived, wrong)
        line = f"first divergence: the backward pass {found.text}; forward, every submodule agrees" if found else NONE
        chain = tuple(step.plain() for step in [*steps, *back])
        return Localisation(PORT, CASE, dtype, line, found.culprit if found else None, chain=chain)
    name = culprit.pair.reference.path or culprit.pair.reference.name if culprit else None
    line = _line(steps, culprit) + _between(steps, culprit, ours)
    chain = tuple(step.plain() for step in steps)
    return Localisation(PORT, CASE, dtype, line + (f" -> {cause}" if cause else ""), name, chain=chain, cause=cause)


def _whole(reference: Side, port: Side, dtype: str, layouts: Layouts) -> Localisation | None:
    """Explain a model without submodules, a function, by its outputs; None where they agree."""
    solution, outputs = solve(reference.model, reference.inputs, dtype), port.model.run(port.inputs, dtype).outputs
    for name in outputs:
        target = Quantity(Kind.OUTPUT, name)
        if target not in solution:
            continue
        found = _turned(outputs[name], solution[target][0], layouts.inverse)
        verdict = judge(found, *solution[target], None, SAFETY["stochastic"])
        if verdict.verdict in FAILS:
            cause = causes_of(reference.model, reference.inputs, None, solution, found, target, dtype)
            line = f"first divergence: {WHOLE}, {say_size(verdict)}; it has no submodules"
            return Localisation(PORT, CASE, dtype, line + (f" -> {cause}" if cause else ""), WHOLE, cause=cause)
    return None


def _is_first_failing(steps: Sequence[Step]) -> bool:
    """Whether the last step is the first that fails as it came."""
    return [step.propagated.verdict in FAILS for step in steps] == [False] * (len(steps) - 1) + [True]


def _judged(
    pair: Pair, call: Call, kind: Kind, solution: Solution, inverse: Order, names: tuple[str, str] | None = None
) -> Judgement:
    """Judge what a call returned, or the gradient that arrives there, in the axis order of the reference."""
    mine, theirs = names or pair.names
    quantity, group = tap_of(pair.reference.key, mine, kind), call.outputs if kind is Kind.TAP else call.gradients
    if quantity not in solution or theirs not in group:
        return Judgement(Verdict.UNSUPPORTED)
    value, error = solution[quantity]
    return judge(_turned(group[theirs], value, inverse), value, error, None, SAFETY["stochastic"])


@dataclass(frozen=True)
class _Alone:
    """A pair run in isolation: what went into the reference's, what both returned, and the judgement."""

    inputs: Mapping[str, np.ndarray]
    solution: Solution
    found: Tensor
    judgement: Judgement


def _isolated(pair: Pair, reference: Side, port: Side, dtype: str, layouts: Layouts) -> _Alone | None:
    """Give the port's submodule what goes into the reference's, and judge what it returns; None where nothing fits."""
    ours = {name: _rounded(array, dtype) for name, array in pair.reference.inputs.items()}
    theirs = _fitted(ours, pair.port.inputs, layouts.usual)
    if not theirs:
        return None
    solution = solve(reference.model, reference.inputs, dtype, given=Given(pair.reference.key, ours))
    alone = port.model.run(port.inputs, dtype, given=Given(pair.port.key, theirs)).calls[-1]
    mine, own = pair.names
    found = _turned(alone.outputs[own], solution[tap_of(pair.reference.key, mine)][0], layouts.inverse)
    return _Alone(ours, solution, found, _judged(pair, alone, Kind.TAP, solution, layouts.inverse))


def causes_of(
    model: Model, inputs: Any, given: Given | None, solution: Solution, found: Tensor, target: Quantity, dtype: str
) -> str:
    """Say what the port does instead, where a change of the reference's submodule gives what the port's returned.

    `given` says which submodule and its inputs; None is the whole model.
    """
    if isinstance(model, Elsewhere):
        return str(model.call(causes_of, inputs, given, solution, found, target, dtype))
    if (run := _changeable(model, inputs, given)) is None:
        return ""
    search = import_module(f"{__package__}.hypotheses.search")  # by name, since it imports PyTorch
    causes = search.name_causes(run, {target: found}, solution, target, dtype=dtype, c=SAFETY["stochastic"])
    return say_causes(causes)


def _changeable(model: Model, inputs: Any, given: Given | None) -> Callable[..., Mapping[Quantity, Any]] | None:
    """Return the reference's submodule as run(changes), changes being of PyTorch's operations; None for none.

    A model on JAX is replayed in PyTorch, where PyTorch is installed and knows all that the submodule does.
    """
    if model.framework in ("torch", "keras-torch"):
        return partial(_run_torch, model, inputs, given)
    if model.framework not in ("jax", "linen", "nnx", "keras-jax") or find_spec("torch") is None:
        return None
    replay, program = (import_module(f"{__package__}.replay.{name}") for name in ("run", "program"))
    try:
        run: Callable[..., Mapping[Quantity, Any]] = replay.Replay(model, inputs, given).run
    except program.Unknown:
        return None
    return run


def _run_torch(
    model: Model, inputs: Any, given: Given | None, changes: AbstractContextManager[Any]
) -> Mapping[Quantity, Any]:
    if given is not None:
        return quantities(model.native_run(inputs, "float64", given=replace(given, within=changes)))
    with changes:
        return quantities(model.native_run(inputs, "float64"))


def _turned(array: np.ndarray, value: np.ndarray, inverse: Order) -> Tensor:
    """Return an array of the port's in the axis order of the reference's, where one fits."""
    turned = aligned(array, value, inverse)
    return Tensor(array if turned is None else turned, array.dtype.name)


def _fitted(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], usual: Order) -> dict[str, np.ndarray]:
    """Give each input of the port's submodule the reference's of that name, else the next that fits in shape."""
    left, fitted = dict(ours), {}
    for name, own in theirs.items():
        for candidate in sorted(left, key=lambda known: known != name):
            turned = aligned(left[candidate], own, usual)
            if turned is not None:
                fitted[name] = turned
                del left[candidate]
                break
    return fitted


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    return quantise(array, dtype).astype(np.float32) if array.dtype.kind == "f" else array


def _backward(steps: Sequence[Step], solution: Solution, layouts: Layouts) -> list[Step]:
    """Judge the gradients that arrive at the submodules' outputs, from the last; leave out what cannot be judged."""
    found = []
    for step in reversed(steps):
        ours, theirs = step.pair.reference.outputs, step.pair.port.gradients
        names = [step.pair.names, *((name, name) for name in [*ours][1:] if name in theirs)]
        judged = [_judged(step.pair, step.pair.port, Kind.TAP_GRADIENT, solution, layouts.inverse, n) for n in names]
        known = [judgement for judgement in judged if judgement.verdict.green or judgement.verdict in FAILS]
        if known:
            worst = max(known, key=lambda j: (j.verdict in FAILS, j.budget_use or 0.0))
            found.append(Step(step.pair, worst, direction="backward"))
    return found


def _line(steps: Sequence[Step], culprit: Step | None) -> str:
    failing = [step for step in steps if step.propagated.verdict in FAILS]
    if culprit is None and failing:
        return (
            f"first divergence: {failing[0].place}, as it came ({say_size(failing[0].propagated)}); run alone, no "
            "submodule differs, so that the error accumulates or comes from code between them"
        )
    if culprit is None:
        return NONE
    if culprit.isolated is None:
        agreeing = list(takewhile(lambda step: step is not culprit, steps))
        after = f" and after {agreeing[-1].pair.reference.path or agreeing[-1].pair.reference.name}" if agreeing else ""
        return (
            f"first divergence: {culprit.place}, or the code before it{after}: as it came "
            f"{say_size(culprit.propagated)}; all that came before agrees. It cannot be run alone, since its inputs "
            "have other shapes in the port"
        )
    return (
        f"first divergence: {culprit.place}, as it came {say_size(culprit.propagated)}, isolated "
        f"{say_size(culprit.isolated)}; all that came before it agrees"
    )


def _between(steps: Sequence[Step], culprit: Step | None, calls: Sequence[Call]) -> str:
    """Say between which of its submodules the culprit goes wrong, where they agree when each is run alone."""
    bad = next((step for step in steps if step.propagated.verdict in FAILS), None)
    if culprit is None or bad is None or bad is culprit:
        return ""
    good = steps[steps.index(bad) - 1] if steps.index(bad) else None
    start = _place(calls, good) + 1 if good else 0
    paired = [step.pair.reference for step in steps]
    alone = [c for c in calls[start : _place(calls, bad)] if not any(c is known for known in paired)]
    twins = f"; the port has no twin of {', '.join(c.name for c in alone)} there" if alone else ""
    after = f"after {good.pair.reference.name} and " if good else ""
    return f". Its submodules agree when each is run alone: look {after}before {bad.pair.reference.name}{twins}"


def _place(calls: Sequence[Call], step: Step) -> int:
    return next(number for number, call in enumerate(calls) if call is step.pair.reference)
