"""Jobs that are run again, in the runner that failed and in the reference, while their workers are still there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eca_multi.parity.define.job import Job
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Solution
from eca_multi.parity.execute.exchange import Exchange, Failure
from eca_multi.parity.execute.messages import Explained


@dataclass(frozen=True)
class Rerun:
    """A job, with the results of the runner and of the reference."""

    job: Job
    results: Outputs
    solution: Solution


@dataclass(frozen=True)
class Bench:
    """Runs jobs again."""

    exchange: Exchange
    runner: Runner
    reference: Runner
    stand_in: Runner | None = None  # a PyTorch layer as the reference, for hypotheses about another kind of reference

    def run(self, jobs: Sequence[Job]) -> list[Rerun | Failure]:
        """Run jobs in the runner and in the reference; a failure has the runner's reason, or else the reference's."""
        results = self.exchange.evaluate(self.runner, jobs)
        solutions = self.exchange.solve(self.reference, [replace(job, compiled=False) for job in jobs])
        reruns: list[Rerun | Failure] = []
        for job, result, solution in zip(jobs, results, solutions, strict=True):
            if isinstance(result, Failure):
                reruns.append(result)
            elif isinstance(solution, Failure):
                reruns.append(Failure(f"the reference: {solution.reason}"))
            else:
                reruns.append(Rerun(job, result, solution))
        return reruns

    def isolate(self, rerun: Rerun) -> Solution:
        """Solve a job from the runner's own taps, by which stages are judged in isolation."""
        [isolated] = self.exchange.solve(self.reference, [with_taps(rerun.job, rerun.results)])
        return rerun.solution if isinstance(isolated, Failure) else isolated

    def again(self, rerun: Rerun) -> Outputs:
        """Return the results of one more run of the runner; those of the first one if that fails."""
        [results] = self.exchange.evaluate(self.runner, [rerun.job])
        return rerun.results if isinstance(results, Failure) else results

    def explain(self, rerun: Rerun) -> Explained | None:
        """Return the operations of the stages and the causes of the failure; None where no PyTorch layer tells them."""
        job = replace(with_results(rerun.job, rerun.results), compiled=False, twice=False)
        for reference in (self.reference, self.stand_in):
            answer = self.exchange.explain(reference, job) if reference is not None else None
            if isinstance(answer, Explained):
                return answer
        return None


def with_results(job: Job, results: Outputs) -> Job:
    """Return the job with all that a runner found; the reference takes its taps instead of the reference's own."""
    shown = {quantity: tensor.values for quantity, tensor in results.items() if quantity.cotangent is Cotangent.DRAWN}
    return replace(job, given={quantity: array for quantity, array in shown.items() if not quantity.repeated})


def with_taps(job: Job, results: Outputs) -> Job:
    """Return the job with the taps of a runner and their gradients, which the reference takes instead of its own."""
    taps = [Quantity(kind, name) for kind in (Kind.TAP, Kind.TAP_GRADIENT) for name in job.taps]
    return replace(job, given={tap: results[tap].values for tap in taps if tap in results})
