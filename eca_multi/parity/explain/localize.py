"""Where a failure begins: the stages of a layer in order, each judged as it came and in isolation.

As it came (propagated): the stage against the reference's. In isolation: the stage against what the reference makes of
the runner's own taps before it. The first stage that fails in isolation is the culprit; the later ones carry its error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eca_multi.parity.define.job import Job, float_inputs
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Solution
from eca_multi.parity.judge.compare import Judgement, Verdict, judge
from eca_multi.parity.judge.verdicts import Judge

FAILS = (Verdict.EXCEEDS_BUDGET, Verdict.NONFINITE_MISMATCH, Verdict.SHAPE_MISMATCH)


@dataclass(frozen=True)
class Stage:
    """A tap, an output, a state or a gradient on the way through a layer."""

    quantity: Quantity
    propagated: Judgement
    isolated: Judgement

    def plain(self) -> dict[str, Any]:
        """Return the stage as JSON's types."""
        is_backward = self.quantity.kind in (Kind.TAP_GRADIENT, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)
        return {
            "tap": self.quantity.label,
            "direction": "backward" if is_backward else "forward",
            "propagated": self.propagated.budget_use,
            "isolated": self.isolated.budget_use,
            "verdict": str(self.isolated.verdict),
        }


@dataclass(frozen=True)
class Localisation:
    """Where the first failure of a runner in a dtype begins, and how to run the failure again.

    Attributes:
        line: The answer in one line, or why it is not known.
        culprit: The first stage that fails in isolation.
        explanation: The fact of the runner's fingerprint that explains the culprit; "" where there is none.
        cause: Each hypothesis under which the reference gives the runner's result, in one line; "" for none.
        chain: The stages as JSON's types.
        shrunk: The sizes of the smallest case that still fails.
        bundle, replay: The folder of the bundle, and the command that runs it.
    """

    runner: str
    case: str
    dtype: str
    line: str
    culprit: str | None = None
    explanation: str = ""
    chain: tuple[dict[str, Any], ...] = ()
    shrunk: dict[str, int] = field(default_factory=dict)
    bundle: str = ""
    replay: str = ""
    cause: str = ""


def in_order(job: Job, stages: Iterable[Quantity] = ()) -> list[Quantity]:
    """Return the stages of a layer in the order in which they are computed.

    `stages` is that order as the reference's operations give it; declared stages that are not among them come last.
    """
    known, declared = [*stages], _declared(job)
    return [*(q for q in known if q in declared), *(q for q in declared if q not in known)]


def _declared(job: Job) -> list[Quantity]:
    """Return the stages in the order of their declaration."""
    names = {
        Kind.TAP: job.taps,
        Kind.OUTPUT: job.outputs,
        Kind.STATE: tuple(job.state),
        Kind.TAP_GRADIENT: tuple(reversed(job.taps)),
        Kind.INPUT_GRADIENT: tuple(float_inputs(job)),
        Kind.WEIGHT_GRADIENT: tuple(job.weights),
    }
    return [Quantity(kind, name, Cotangent.DRAWN) for kind, group in names.items() for name in group]


def chain(
    job: Job,
    results: Outputs,
    solution: Solution,
    isolated: Solution,
    by: Judge,
    order: Iterable[Quantity] = (),
) -> list[Stage]:
    """Judge every stage twice, in an order that the reference gives."""
    return [
        Stage(quantity, judge_stage(quantity, results, solution, by), judge_stage(quantity, results, isolated, by))
        for quantity in in_order(job, order)
        if quantity in solution
    ]


def judge_stage(quantity: Quantity, results: Outputs, solution: Solution, by: Judge) -> Judgement:
    """Judge one tensor, in whatever dtype it came."""
    if quantity not in results:
        return Judgement(Verdict.MISSING_TAP)
    value, error = solution[quantity]
    return judge(results[quantity], value, by.budget(value, error), None, by.c)


def culprit(stages: Sequence[Stage]) -> Stage | None:
    """Return the first stage that fails in isolation."""
    return next((stage for stage in stages if stage.isolated.verdict in FAILS), None)


def is_failing(stages: Sequence[Stage]) -> bool:
    """Return whether any stage fails as it came."""
    return any(stage.propagated.verdict in FAILS for stage in stages)


def say(stages: Sequence[Stage], explanation: str, unclear: Sequence[str] = (), cause: str = "") -> str:
    """Say in one line where the first divergence is, how large it is, and what explains it.

    `unclear` names taps whose axes are in an order that nothing tells.
    """
    first = culprit(stages)
    failing = [stage.quantity.label for stage in stages if stage.propagated.verdict in FAILS]
    missing = [
        stage.quantity.label
        for stage in stages
        if stage.isolated.verdict is Verdict.MISSING_TAP and stage.quantity.name not in unclear
    ]
    without = f" (no tap {', '.join(missing)})" if missing else ""
    without += f" (the axes of {', '.join(unclear)} are not known: give them in Spec.taps)" if unclear else ""
    if first is None and not failing:
        return f"first divergence: none when it is run again with taps{without}"
    if first is None:
        return f"first divergence: {failing[0]}, but no stage fails alone: the error accumulates{without}"
    use = first.isolated.budget_use
    size = f"isolated {use:.3g} x the budget" if use is not None else str(first.isolated.verdict)
    reason = f" -> {explanation}" if explanation else ""
    reason += f"; {cause}" if cause else ""
    return f"first divergence: {first.quantity.label} ({size}), upstream clean{without}{reason}"
