"""How far a free training run drifts from the reference's: a picture beside the verdict, and never the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity, Solution
from eca_multi.parity.execute.messages import Malformed
from eca_multi.parity.execute.tasks import Task
from eca_multi.parity.execute.training import PERTURBED, marks

from .verdicts import Judge


@dataclass(frozen=True)
class Trajectory:
    """Free-running drift max |w - reference| over all weights at some steps, and the band of perturbed references."""

    runner: str
    case: str
    dtype: str
    optimizer: str
    steps: tuple[int, ...]
    drift: tuple[float, ...]
    band: tuple[float, ...]
    one_step: tuple[float, ...]


def measure_drift(runner: str, task: Task, results: Outputs, solution: Solution, by: Judge) -> Trajectory:
    """Measure the drift of a free run at each mark, and its band."""
    job = task.job
    settings: Mapping[str, Any] = job.training or {}
    steps = marks(settings["steps"])
    free = {name: Quantity(Kind.FREE, name) for name in job.weights}

    def distance(weights: Mapping[str, np.ndarray], mark: int) -> float:
        off = (np.abs(weights[name][mark] - solution[quantity][0][mark]) for name, quantity in free.items())
        return max(float(array.max(initial=0.0)) for array in off)

    def share(quantity: Quantity, step: int) -> float:
        value, error = (part[step] for part in solution[quantity])
        off = np.abs(results[quantity].values[step] - value)
        return float((off / (by.c * by.budget(value, error))).max(initial=0.0))

    trained = {name: results[quantity].values.astype(np.float64) for name, quantity in free.items()}
    bands = [
        {name: solution[Quantity(Kind.BAND, name, run=run)][0] for name in job.weights} for run in range(PERTURBED)
    ]
    one_step = [Quantity(Kind.STEP, name) for name in job.weights]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # these are pictures, and no verdict
        shares = [max(share(quantity, step) for quantity in one_step) for step in range(settings["steps"])]
        drift = [distance(trained, mark) for mark in range(len(steps))]
    return Trajectory(
        runner,
        job.case,
        job.dtype,
        settings["optimizer"],
        tuple(steps),
        tuple(drift),
        tuple(max(distance(band, mark) for band in bands) for mark in range(len(steps))),
        tuple(float(f"{use:.4g}") for use in shares),
    )


def check_trained(job: Job, shapes: Mapping[Quantity, tuple[int, ...]], *, reference: bool = False) -> None:
    """Refuse what came back from training if it lacks a weight, or a step of one.

    Raises:
        Malformed: Naming the tensor.
    """
    steps = (job.training or {})["steps"]
    for name, weight in job.weights.items():
        every_step, at_marks = [Quantity(Kind.STEP, name)], [Quantity(Kind.FREE, name)]
        if reference:
            every_step.append(Quantity(Kind.START, name))
            at_marks += [Quantity(Kind.BAND, name, run=run) for run in range(PERTURBED)]
        for quantities, length in ((every_step, steps), (at_marks, len(marks(steps)))):
            for quantity in quantities:
                expected, received = (length, *weight.shape), shapes.get(quantity)
                if received != expected:
                    raise Malformed(f"{quantity} must have the shape {expected}. Received: {received or 'none'}.")
