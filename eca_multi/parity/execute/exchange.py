"""The exchange with the workers: tasks go out as requests and files, messages come back as replies with types."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from eca_multi.parity.define.job import FIELDS, Job, pack_job
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.tensor import Outputs, Solution

from . import messages
from .messages import Do, Request
from .pool import Lost, Pool
from .results import Delivery, write_arrays
from .tasks import Task

T = TypeVar("T")
Batch: TypeAlias = tuple[Runner, Sequence[Task]]


@dataclass(frozen=True)
class Failure:
    """The reason, in one line, why a job has no result."""

    reason: str


Answered: TypeAlias = Delivery | messages.Tensorless
Reply: TypeAlias = messages.Greeting | messages.WrongAdapter | Answered | Lost


class Exchange:
    """Asks the workers of a pool, whose files lie in a folder."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._numbers = itertools.count(1)  # of requests, so that each answer of a run has a file of its own
        self._inputs: dict[tuple[int, ...], tuple[Job, Path]] = {}
        self.greetings: dict[str, messages.Greeting] = {}  # by runner: a worker greets once, whoever asks first

    @property
    def limit(self) -> int:
        """The number of workers that are busy at a time."""
        return self._pool.limit

    def stream(self, batches: Sequence[Batch]) -> Iterator[tuple[Runner, Task | None, Reply]]:
        """Ask every runner for its tasks, and yield the replies as they come; a greeting and an end have no task.

        A full disk raises OSError.
        """
        requests = [(runner, [self._request(task) for task in batch]) for runner, batch in batches]
        paths = {request.id: request.out for _, batch in requests for request in batch}
        tasks = dict(zip(paths, (task for _, batch in batches for task in batch), strict=True))
        with contextlib.closing(self._pool.run(requests)) as answers:  # type: ignore[type-var]  # it is a generator
            for runner, said in answers:
                if isinstance(said, messages.Greeting):
                    self.greetings[runner.name] = said
                if isinstance(said, messages.Computed):
                    yield runner, tasks[said.id], Delivery(said, paths[said.id])
                elif not isinstance(said, messages.Done):
                    yield runner, tasks[said.id] if isinstance(said, messages.Tensorless) else None, said

    def ask(self, runner: Runner, tasks: Sequence[Task]) -> list[Answered | Lost]:
        """Return a worker's answers in the order of the tasks; `Lost` where its end came before the answer."""
        answers: dict[int, Answered] = {}
        lost = Lost("crashed", "ended without an answer")
        for _, task, reply in self.stream([(runner, tasks)]):
            if isinstance(reply, Lost):
                lost = reply
            elif isinstance(reply, Answered):
                answers[id(task)] = reply
        return [answers.get(id(task), lost) for task in tasks]

    def evaluate(self, runner: Runner, jobs: Sequence[Job]) -> list[Outputs | Failure]:
        """Run jobs in a runner."""
        return self._read(runner, jobs, Do.EVALUATE, Delivery.outputs)

    def solve(self, reference: Runner, jobs: Sequence[Job]) -> list[Solution | Failure]:
        """Run jobs in the reference."""
        return self._read(reference, jobs, Do.SOLVE, Delivery.solution)

    def explain(self, reference: Runner, job: Job) -> messages.Explained | Failure:
        """Ask a reference for the operations of its stages, and for the causes of a failure: see `hypotheses`."""
        [answer] = self.ask(reference, [Task("", Do.EXPLAIN, job.case, job, None)])
        return answer if isinstance(answer, messages.Explained) else failure(answer)

    def measure(self, runners: Sequence[Runner]) -> Iterator[tuple[Runner, Reply]]:
        """Have runners measure their fingerprints."""
        batches = [(runner, [Request(next(self._numbers), Do.FINGERPRINT)]) for runner in runners]
        for runner, said in self._pool.run(batches):
            if not isinstance(said, messages.Computed | messages.Done):
                yield runner, said

    def condemn(self, runner: Runner, reason: str) -> Lost:
        """End a worker whose file does not hold its answer."""
        return self._pool.condemn(runner, reason)

    def _read(self, runner: Runner, jobs: Sequence[Job], do: Do, read: Callable[[Delivery], T]) -> list[T | Failure]:
        """Run jobs, and read the tensors of each answer. A worker whose file does not hold its answer ends."""
        results: list[T | Failure] = []
        for answer in self.ask(runner, [Task("", do, job.case, job, None) for job in jobs]):
            try:
                results.append(read(answer) if isinstance(answer, Delivery) else failure(answer))
            except messages.Malformed as error:
                results.append(failure(self.condemn(runner, no_answer(error))))
        return results

    def _request(self, task: Task) -> Request:
        number = next(self._numbers)
        out = self._folder / f"answer-{number}.out"
        return Request(number, task.do, task.check, task.job, self._file(task.job), out)

    def _file(self, job: Job) -> Path:
        """Write the arrays of a job, once for all jobs that share them."""
        key = tuple(id(getattr(job, name)) for name in FIELDS)
        if key not in self._inputs:
            path = self._folder / f"inputs-{len(self._inputs)}.safetensors"
            write_arrays(pack_job(job)[1], path)
            self._inputs[key] = job, path  # the job keeps its arrays alive, so that their ids stay theirs
        return self._inputs[key][1]


def no_answer(fault: object) -> str:
    """Return why a worker ends whose file does not hold its answer."""
    return f"wrote what is no answer: {fault}"


def failure(answer: Answered | Lost) -> Failure:
    """Return why an answer has no tensors."""
    match answer:
        case messages.Refused(reason=text) | messages.Raised(text=text) | messages.Unwritten(reason=text):
            return Failure(last_line(text))
        case Lost():
            return Failure(f"the worker {answer.kind}: {answer.detail.splitlines()[0]}")
        case _:
            return Failure("the answer has no tensors")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
