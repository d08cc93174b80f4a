"""The session of one run: it sends the tasks to every runner, and pairs each answer with the reference's solution.

A session asks the reference and all runners at once. Training follows, since its steps start from the reference's
weights. An answer that comes before its solution waits in its file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.tensor import Kind, Outputs, Solution

from .exchange import Batch, Exchange, Reply, last_line, no_answer
from .messages import Do, Greeting, Malformed, Measured, Raised, Refused, Unwritten, WrongAdapter
from .pool import Lost
from .results import Delivery
from .state import RunnerState
from .tasks import Key, Task
from .training import SOLVED, TRAINED, check_trained

LARGE = 2**20  # weights: from here on a process of its own for each question costs less than waiting
MOST = 4  # processes of the reference, each of which holds the layer's results in float64
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Results:
    """The tensors of an answer, and the solution to judge them by. `note` says whose optimizer trained."""

    outputs: Outputs
    solution: Solution
    note: str = ""


@dataclass(frozen=True)
class Unsolved:
    """The reason why there is no solution to judge an answer by."""

    reason: str


Outcome: TypeAlias = Results | Refused | Raised | Unwritten | Unsolved
Finished: TypeAlias = tuple[Runner, Task, Outcome]


class Session:
    """The exchange of one run, and its results."""

    def __init__(
        self, exchange: Exchange, reference: Runner, batches: Sequence[Batch], progress: Progress | None = None
    ) -> None:
        self.exchange, self.reference, self._batches = exchange, reference, batches
        self.runners = [runner for runner, _ in batches]
        self.states = {runner.name: RunnerState(runner.name) for runner, _ in batches}
        self.cannot: dict[str, dict[str, str]] = {}  # by runner, check or dtype -> why its adapter cannot do it
        greeting = exchange.greetings.get(reference.name)
        self.budget = greeting.budget if greeting else ""  # the kind of the reference's budget, after its greeting
        # Of the packages that the reference computes with, in the same way.
        self.reference_versions = dict(greeting.versions) if greeting else {}
        self.solutions: dict[Key, Solution] = {}
        self.lost: RunnerState | None = None  # the end of the reference's process
        self.open: dict[str, list[Task]] = {runner.name: [] for runner, _ in batches}  # left without an answer
        self._waiting: dict[Key, list[tuple[Runner, Task, Delivery]]] = {}
        self._progress, self._done, self._total = progress, 0, sum(len(tasks) for _, tasks in batches)

    def run(self, questions: Sequence[Task]) -> Iterator[Finished]:
        """Yield the outcome of every task that has one, in the order of the answers.

        Args:
            questions: Tasks of the run, of which the reference solves one for each key.

        Raises:
            SpecError: If the reference cannot be right: it raises, or is not finite for finite data.
        """
        self._tell("starting")
        to_solve = {task.oracle: _question(task) for task in questions if task.oracle is not None}
        evaluations = [(runner, [task for task in tasks if task.do is not Do.TRAIN]) for runner, tasks in self._batches]
        yield from self._phase([*self._shares(list(to_solve.values())), *evaluations])
        trainings = [(runner, [task for task in tasks if task.do is Do.TRAIN]) for runner, tasks in self._batches]
        yield from self._train(trainings)

    def fingerprint(self, runner: Runner) -> dict[str, Any]:
        """Return the fingerprint of a runner, measured once."""
        state = self.states[runner.name]
        for _, reply in self.exchange.measure([] if state.fingerprint else [runner]):
            if isinstance(reply, Measured):
                state.fingerprint = dict(reply.fingerprint)
        return state.fingerprint

    @property
    def no_solution(self) -> str:
        """Why a task has no solution."""
        ended = f" {self.lost.state}: {last_line(self.lost.detail)}" if self.lost else ""
        return f"there is nothing to judge it by: the reference{ended or ' gave none'}"

    def _train(self, batches: Sequence[Batch]) -> Iterator[Finished]:
        reason = self.no_solution if self.lost else ""
        if not reason:
            try:
                yield from self._phase(self._with_starts(batches))
            except OSError as error:  # no room for the starts; the evaluations keep their verdicts
                reason = str(error)
        for runner, tasks in batches if reason else ():
            for task in tasks:
                yield runner, task, Unsolved(reason)

    def _with_starts(self, batches: Sequence[Batch]) -> list[Batch]:
        """Give training its starts: the weights and optimizer states of the reference at each step."""
        jobs: dict[int, Job] = {}  # one for all runners, so that its arrays are written once
        for task in (task for _, tasks in batches for task in tasks):
            if id(task) not in jobs and task.oracle is not None:
                starts = {
                    quantity: value.astype("float32")
                    for quantity, (value, _) in self.solutions[task.oracle].items()
                    if quantity.kind in (Kind.START, Kind.SLOT)
                }
                jobs[id(task)] = replace(task.job, given=starts)
        return [(runner, [replace(task, job=jobs[id(task)]) for task in tasks]) for runner, tasks in batches]

    def _shares(self, questions: list[Task]) -> list[Batch]:
        """Give questions about large layers to several processes of the reference: 18 runs each take longest of all."""
        sizes = [sum(array.size for array in task.job.weights.values()) for task in questions]
        large = sum(size >= LARGE for size in sizes)
        count = min(large, self.exchange.limit, MOST) if large > 1 else 1
        twins = [replace(self.reference, name=f"{self.reference.name} {number}") for number in range(2, count + 1)]
        return [(runner, questions[n::count]) for n, runner in enumerate([self.reference, *twins])]

    def _phase(self, batches: Sequence[Batch]) -> Iterator[Finished]:
        remaining = {runner.name: {id(task): task for task in tasks} for runner, tasks in batches}
        for runner, task, reply in self.exchange.stream(batches):
            if runner.role == self.reference.role:
                yield from self._take_solution(runner, task, reply)
            else:
                remaining[runner.name].pop(id(task), None)
                yield from self._take(runner, task, reply)
        for waiting in self._waiting.values():  # for solutions that never came
            for runner, task, _ in waiting:
                yield runner, task, Unsolved(self.no_solution)
        self._waiting.clear()
        for name, tasks in self.open.items():
            tasks += remaining[name].values()

    # --- the reference's replies

    def _take_solution(self, runner: Runner, task: Task | None, reply: Reply) -> Iterator[Finished]:
        match reply:
            case Greeting(budget=""):
                self._condemn_reference(runner, "a reference must say its budget")
            case Greeting():
                self.budget, self.reference_versions = reply.budget, dict(reply.versions)
            case WrongAdapter():
                raise SpecError(f"the reference crashed: {reply.reason}")
            case Refused(reason=text) | Raised(text=text) if task is not None:
                raise SpecError(f"the reference failed on case {task.case}: {last_line(text)}")
            case Unwritten():
                self._end_reference(self.exchange.condemn(runner, reply.reason))
            case Lost() if self.lost is None:
                self._end_reference(reply)
            case Delivery() if task is not None and task.oracle is not None:
                try:
                    solution = reply.solution()
                    if task.do is Do.SOLVE_TRAINING:
                        check_trained(task.job, {q: value.shape for q, (value, _) in solution.items()}, SOLVED)
                except Malformed as error:
                    self._condemn_reference(runner, str(error))
                else:
                    _check_finite(task.job, solution)
                    self.solutions[task.oracle] = solution
                    for asked, waiting, delivery in self._waiting.pop(task.oracle, []):
                        yield from self._read(asked, waiting, delivery)

    def _condemn_reference(self, runner: Runner, fault: str) -> None:
        self._end_reference(self.exchange.condemn(runner, no_answer(fault)))

    def _end_reference(self, lost: Lost) -> None:
        """Note the end of the reference: earlier verdicts stand, and the report shows the end among the runners."""
        self.lost = RunnerState(self.reference.name, lost.kind, lost.detail)

    # --- the runners' replies

    def _take(self, runner: Runner, task: Task | None, reply: Reply) -> Iterator[Finished]:
        match reply:
            case Greeting():
                self.states[runner.name].versions = dict(reply.versions)
                self.cannot[runner.name] = dict(reply.cannot)
            case Lost():
                self._end(runner, reply)
        if task is not None:
            self._done += 1
            match reply:
                case Delivery() if task.oracle is not None and task.oracle not in self.solutions:
                    self._waiting.setdefault(task.oracle, []).append((runner, task, reply))
                case Delivery():
                    yield from self._read(runner, task, reply)
                case Refused() | Raised() | Unwritten():
                    yield runner, task, reply
        self._tell(runner.name)

    def _read(self, runner: Runner, task: Task, delivery: Delivery) -> Iterator[Finished]:
        """Read an answer. A worker whose file does not hold the answer ends."""
        try:
            outputs = delivery.outputs()
            if task.do is Do.TRAIN:
                check_trained(task.job, {q: tensor.values.shape for q, tensor in outputs.items()}, TRAINED)
        except Malformed as error:
            self._end(runner, self.exchange.condemn(runner, no_answer(error)))
            self.open[runner.name].append(task)
        else:
            solution = self.solutions[task.oracle] if task.oracle else {}
            yield runner, task, Results(outputs, solution, delivery.answer.note)

    def _end(self, runner: Runner, lost: Lost) -> None:
        state = self.states[runner.name]
        if state.state == "ran":  # a second batch ends as the first one did
            state.state, state.detail = lost.kind, lost.detail

    def _tell(self, name: str) -> None:
        if self._progress is not None:
            self._progress(name, self._done, self._total)


def _check_finite(job: Job, solution: Solution) -> None:
    """Refuse a reference that is NaN or infinite for finite data: no error could be measured from it."""
    arrays = [*job.inputs.values(), *job.weights.values(), *job.state.values()]
    if not all(np.isfinite(array).all() for array in arrays if is_float(array)):
        return
    for quantity, (value, _) in solution.items():
        if not np.isfinite(value).all():
            place = [int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(value))), value.shape)]
            raise SpecError(
                f"the reference must be finite for finite inputs. Received: {quantity.label} of case {job.case} in "
                f"{job.dtype} is {value[tuple(place)]} at {place}. Correct the reference or the case's data."
            )


def _question(task: Task) -> Task:
    """Return the reference's task: with gradients wherever a check may compare them."""
    do = Do.SOLVE_TRAINING if task.do is Do.TRAIN else Do.SOLVE
    gradients = task.check != "nonfinite"
    return replace(task, do=do, job=replace(task.job, compiled=False, twice=False, gradients=gradients))
