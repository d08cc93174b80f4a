"""The cotangents of outputs without sizes in the specification: a first run of the reference says the sizes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity

from .exchange import Exchange, last_line, no_answer
from .messages import Do, Greeting, Malformed, Raised, Refused, WrongAdapter
from .results import Delivery
from .tasks import Task, rounded


def with_cotangents(exchange: Exchange, reference: Runner, tasks: Sequence[Task], loss: str | None) -> list[Task]:
    """Return the tasks, in their order, with a cotangent for each float output; no question if they have them all.

    A number alone keeps a cotangent of one. `loss` is the output that training differentiates, and no other.

    Raises:
        SpecError: If the reference fails, or returns an output of other axes than the specification's.
    """
    asked: dict[str, Job] = {}
    for task in tasks:
        if task.oracle is not None and task.job.gradients and set(task.job.outputs) - set(task.job.cotangents):
            asked.setdefault(task.case, task.job)
    if not asked:
        return list(tasks)
    drawn: dict[str, dict[str, np.ndarray]] = {}
    questions = [Task("", Do.OUTPUTS, case, _plain(job), None) for case, job in asked.items()]
    for _, question, reply in exchange.stream([(reference, questions)]):
        match reply:
            case Greeting(budget=""):
                exchange.condemn(reference, no_answer("a reference must say its budget"))
            case WrongAdapter():
                raise SpecError(f"the reference crashed: {reply.reason}")
            case Refused(reason=text) | Raised(text=text) if question is not None:
                raise SpecError(f"the reference failed on case {question.case}: {last_line(text)}")
            case Delivery() if question is not None:
                try:
                    drawn[question.case] = cotangents_for(question.job, reply.outputs())
                except Malformed as error:
                    exchange.condemn(reference, no_answer(error))
    # Where the reference has ended without an answer, the session finds the same end, and reports it.

    def full(task: Task) -> Task:
        arrays = drawn.get(task.case, {})
        if task.do is Do.TRAIN and loss is not None:
            arrays = {name: np.full_like(array, name == loss) for name, array in arrays.items()}
        return replace(
            task, job=replace(task.job, cotangents={**rounded(arrays, task.job.dtype), **task.job.cotangents})
        )

    return [full(task) for task in tasks]


def _plain(job: Job) -> Job:
    return replace(job, compiled=False, twice=False, gradients=False, training=None, taps=())


def cotangents_for(job: Job, outputs: Outputs) -> dict[str, np.ndarray]:
    """Draw a cotangent for each float output of these, or raise SpecError for axes that are not the specification's."""
    cotangents = {}
    for name in job.outputs:
        tensor = outputs.get(Quantity(Kind.OUTPUT, name))
        if tensor is None:
            raise SpecError(f"the reference must return the output {name!r}. Received: none in case {job.case}.")
        array = tensor.values
        if axes := job.axes.get(name):
            sizes = [int(axis) if axis.isdigit() else job.config.get(axis) for axis in axes]
            if len(sizes) != array.ndim or any(a not in (None, b) for a, b in zip(sizes, array.shape, strict=True)):
                raise SpecError(
                    f"output {name!r} must have the axes of the specification, {' '.join(axes)!r}. Received: shape "
                    f"{array.shape} of the reference in case {job.case}, where the sizes are {sizes}."
                )
        if is_float(array) and array.ndim:
            rng = np.random.default_rng(list(f"{job.case}:cotangent of {name}".encode()))
            cotangents[name] = rng.normal(size=array.shape)
    return cotangents
