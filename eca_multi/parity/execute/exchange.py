"""The exchange with the workers: tasks go out as requests and files, messages come back as replies with types."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from eca_multi.parity.define.job import FIELDS, Job, pack_job
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.tensor import Outputs, Solution

from .messages import (
    Computed,
    Do,
    Done,
    Greeting,
    Malformed,
    Measured,
    Raised,
    Refused,
    Request,
    Unwritten,
    WrongAdapter,
)
from .pool import Lost, Pool
from .results import load, load_outputs, load_solution, write_arrays
from .tasks import Task

T = TypeVar("T")
Batch: TypeAlias = tuple[Runner, Sequence[Task]]


@dataclass(frozen=True)
class Delivery:
    """An answer whose tensors lie in a file. Read it once: reading removes the file.

    Each way to read raises Malformed if the file does not hold what the answer says.
    """

    answer: Computed
    path: Path

    def outputs(self) -> Outputs:
        return load_outputs(self.answer, self.path)

    def solution(self) -> Solution:
        return load_solution(self.answer, self.path)

    def by_mutant(self) -> dict[str, Outputs]:
        return load(self.answer, self.path)


@dataclass(frozen=True)
class Failure:
    """Why a job has no result, in one line."""

    reason: str


Answered: TypeAlias = Delivery | Measured | Refused | Raised | Unwritten
Reply: TypeAlias = Greeting | WrongAdapter | Answered | Lost


class Exchange:
    """Asks the workers of a pool, whose files lie in a folder."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._number = 0  # of the last request in this run, so that each answer has a file of its own
        self._inputs: dict[tuple[int, ...], tuple[Job, Path]] = {}

    def stream(self, batches: Sequence[Batch]) -> Iterator[tuple[Runner, Task | None, Reply]]:
        """Ask every runner for its tasks, and yield the replies as they come; a greeting and an end have no task.

        Raises:
            OSError: If there is no room for the inputs.
        """
        tasks: dict[int, Task] = {}
        paths: dict[int, Path] = {}
        requests: list[tuple[Runner, list[Request]]] = []
        for runner, batch in batches:
            asked = [self._request(task) for task in batch]
            tasks |= {request.id: task for request, task in zip(asked, batch, strict=True)}
            paths |= {request.id: request.out for request in asked}
            requests.append((runner, asked))
        with contextlib.closing(self._pool.run(requests)) as messages:  # type: ignore[type-var]  # it is a generator
            for runner, said in messages:
                match said:
                    case Done():
                        pass
                    case Computed():
                        yield runner, tasks[said.id], Delivery(said, paths[said.id])
                    case Measured() | Refused() | Raised() | Unwritten():
                        yield runner, tasks[said.id], said
                    case Greeting() | WrongAdapter() | Lost():
                        yield runner, None, said

    def ask(self, runner: Runner, tasks: Sequence[Task]) -> list[Answered | Lost]:
        """Return a worker's answers in the order of the tasks; `Lost` where its end came before the answer."""
        answers: dict[int, Answered] = {}
        lost = Lost("crashed", "ended without an answer")
        for _, task, reply in self.stream([(runner, tasks)]):
            match reply:
                case Lost():
                    lost = reply
                case Delivery() | Measured() | Refused() | Raised() | Unwritten() if task is not None:
                    answers[id(task)] = reply
        return [answers.get(id(task), lost) for task in tasks]

    def evaluate(self, runner: Runner, jobs: Sequence[Job]) -> list[Outputs | Failure]:
        """Run jobs in a runner."""
        return [self._read(runner, answer, Delivery.outputs) for answer in self._ask(runner, jobs, Do.EVALUATE)]

    def solve(self, reference: Runner, jobs: Sequence[Job]) -> list[Solution | Failure]:
        """Run jobs in the reference."""
        return [self._read(reference, answer, Delivery.solution) for answer in self._ask(reference, jobs, Do.SOLVE)]

    def measure(self, runners: Sequence[Runner]) -> Iterator[tuple[Runner, Reply]]:
        """Have runners measure their fingerprints."""
        batches = [(runner, [Request(self._next(), Do.FINGERPRINT)]) for runner in runners]
        for runner, said in self._pool.run(batches):
            if not isinstance(said, Computed | Done):
                yield runner, said

    def condemn(self, runner: Runner, reason: str) -> Lost:
        """End a worker whose answer turned out to be none."""
        return self._pool.condemn(runner, reason)

    def _ask(self, runner: Runner, jobs: Sequence[Job], do: Do) -> list[Answered | Lost]:
        return self.ask(runner, [Task("", do, job.case, job, None) for job in jobs])

    def _read(self, runner: Runner, answer: Answered | Lost, read: Callable[[Delivery], T]) -> T | Failure:
        """Read the tensors of an answer. A worker whose file does not hold them ends."""
        match answer:
            case Delivery():
                try:
                    return read(answer)
                except Malformed as error:
                    return failure(self.condemn(runner, no_answer(error)))
            case _:
                return failure(answer)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _request(self, task: Task) -> Request:
        number = self._next()
        out = self._folder / f"answer-{number}.out"
        return Request(number, task.do, task.check, task.job, self._file(task.job), out)

    def _file(self, job: Job) -> Path:
        """Write the arrays of a job, once for all jobs that share them."""
        key = tuple(id(getattr(job, name)) for name in FIELDS)
        if key not in self._inputs:
            path = self._folder / f"inputs-{len(self._inputs)}.safetensors"
            write_arrays(pack_job(job)[1], path)
            self._inputs[key] = job, path  # the job too: an id is that of its arrays for as long as they live
        return self._inputs[key][1]


def no_answer(fault: object) -> str:
    """Say why a worker ends whose file does not hold its answer."""
    return f"wrote what is no answer: {fault}"


def failure(answer: Answered | Lost) -> Failure:
    """Return why an answer has no tensors."""
    match answer:
        case Refused(reason=text) | Raised(text=text) | Unwritten(reason=text):
            return Failure(last_line(text))
        case Lost():
            return Failure(f"the worker {answer.kind}: {answer.detail.splitlines()[0]}")
        case _:
            return Failure("the answer has no tensors")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
