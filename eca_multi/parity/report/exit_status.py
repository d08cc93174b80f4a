"""The exit status of each command that has no exit code in its report."""

from collections.abc import Collection, Iterable

from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.judge.compare import Judgement

from .report import Report

AGREE, DISAGREE, WRONG_USAGE, CRASHED, INCONCLUSIVE = range(5)


def of_comparison(judgements: Collection[Judgement]) -> int:
    """Return the status of `compare`: no tensors, or a tensor without a verdict, are inconclusive."""
    verdicts = [judgement.verdict for judgement in judgements]
    if any(verdict.disagrees for verdict in verdicts):
        return DISAGREE
    return AGREE if verdicts and all(verdict.green for verdict in verdicts) else INCONCLUSIVE


def of_power(report: Report) -> int:
    """Return the status of `power`: a case that kills no mutant is inconclusive."""
    if report.exit_code == CRASHED:  # the reference or the worker of the mutants
        return CRASHED
    return AGREE if report.power and all(power.killed for power in report.power) else INCONCLUSIVE


def of_runners(states: Iterable[RunnerState]) -> int:
    """Return the status of `fingerprint`: a runner that is not installed is no fault."""
    return CRASHED if any(state.state in ("crashed", "timed out") for state in states) else AGREE
