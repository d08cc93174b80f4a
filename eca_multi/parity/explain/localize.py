"""Finding where a failure begins: the taps in order, each judged as it came and in isolation.

As it came (propagated): the tap against the reference's. In isolation: the tap against what the reference makes of the
runner's own taps before it. The first that fails in isolation is the culprit; what follows it only carries it on.
"""

from dataclasses import dataclass, replace
from typing import Any

from eca_multi.parity.define.job import Job, float_inputs
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity, Solution
from eca_multi.parity.judge.compare import Judgement, Verdict, judge
from eca_multi.parity.judge.verdicts import Judge

FAILS = (Verdict.EXCEEDS_BUDGET, Verdict.NONFINITE_MISMATCH, Verdict.SHAPE_MISMATCH)


@dataclass(frozen=True)
class Stage:
    """A tap, an output or a gradient on the way through a layer."""

    quantity: Quantity
    direction: str  # forward or backward
    propagated: Judgement
    isolated: Judgement

    def plain(self) -> dict[str, Any]:
        return {
            "tap": self.quantity.label,
            "direction": self.direction,
            "propagated": self.propagated.budget_use,
            "isolated": self.isolated.budget_use,
            "verdict": str(self.isolated.verdict),
        }


def order(job: Job) -> list[tuple[Quantity, str]]:
    """The stages of a layer in the order in which they are computed, with their direction."""
    forward = [(Kind.TAP, job.taps), (Kind.OUTPUT, job.outputs), (Kind.STATE, job.state)]
    backward = [
        (Kind.TAP_GRADIENT, [*reversed(job.taps)]),
        (Kind.INPUT_GRADIENT, float_inputs(job)),
        (Kind.WEIGHT_GRADIENT, job.weights),
    ]
    return [
        (Quantity(kind, name), direction)
        for direction, groups in (("forward", forward), ("backward", backward))
        for kind, names in groups
        for name in names
    ]


def given(job: Job, results: Outputs) -> Job:
    """The reference's job for the isolated stages: the runner's own taps in the place of the reference's."""
    taps = {q: tensor.values for q, tensor in results.items() if q.kind in (Kind.TAP, Kind.TAP_GRADIENT)}
    return replace(job, given=taps)


def chain(job: Job, results: Outputs, solution: Solution, isolated: Solution, by: Judge) -> list[Stage]:
    """Judge every stage twice."""
    return [
        Stage(
            quantity, direction, judge_one(quantity, results, solution, by), judge_one(quantity, results, isolated, by)
        )
        for quantity, direction in order(job)
        if quantity in solution
    ]


def judge_one(quantity: Quantity, results: Outputs, solution: Solution, by: Judge) -> Judgement:
    """Judge one tensor; the dtype is not looked at."""
    if quantity not in results:
        return Judgement(Verdict.MISSING_TAP)
    value, error = solution[quantity]
    return judge(results[quantity], value, by.budget(value, error), None, by.c)


def culprit(stages: list[Stage]) -> Stage | None:
    """The first stage that fails in isolation."""
    return next((stage for stage in stages if stage.isolated.verdict in FAILS), None)


def say(stages: list[Stage], explanation: str) -> str:
    """One line: where the first divergence is, how large, and what explains it."""
    first = culprit(stages)
    failing = [stage.quantity.label for stage in stages if stage.propagated.verdict in FAILS]
    missing = [stage.quantity.label for stage in stages if stage.isolated.verdict is Verdict.MISSING_TAP]
    without = f" (no tap {', '.join(missing)})" if missing else ""
    if first is None and not failing:
        return f"first divergence: none when it is run again with taps{without}"
    if first is None:
        return f"first divergence: {failing[0]}, but no stage fails alone: the error accumulates{without}"
    use = first.isolated.budget_use
    size = f"isolated {use:.3g} x the budget" if use is not None else str(first.isolated.verdict)
    reason = f" -> {explanation}" if explanation else ""
    return f"first divergence: {first.quantity} ({size}), upstream clean{without}{reason}"


def smaller(job: Job, axis: str, size: int) -> Job:
    """Cut every tensor of a job to the first `size` along an axis: data, weights and states."""
    axes = {**job.axes, **job.weight_axes}

    def cut(name: str, array: Any) -> Any:
        named = axes.get(name, ())
        return array[tuple(slice(size) if a == axis else slice(None) for a in named)] if axis in named else array

    groups: dict[str, Any] = {
        group: {name: cut(name, array) for name, array in getattr(job, group).items()}
        for group in ("inputs", "weights", "state", "cotangents")
    }
    return replace(job, config={**job.config, axis: size}, **groups)


def candidates(job: Job, axis: str) -> list[int]:
    """The sizes to try along an axis, smallest first."""
    now = int(job.config[axis])
    return [size for size in sorted({1, 2, 3, 4, 8, now // 2}) if 0 < size < now]


def axes_of(job: Job) -> list[str]:
    """The axes of the inputs, in the order in which they are shrunk: the batch first, the channels last."""
    names = dict.fromkeys(axis for name in job.inputs for axis in job.axes.get(name, ()) if not axis.isdigit())
    return sorted((axis for axis in names if axis in job.config), key=lambda axis: (axis == "C", axis != "N"))
