"""How far a free training run drifts from the reference's: a picture beside the verdict, and never the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.execute.session import Results
from eca_multi.parity.execute.tasks import Task
from eca_multi.parity.execute.training import PERTURBED, marks

from .verdicts import Judge


@dataclass(frozen=True)
class Trajectory:
    """The drift of one runner's training.

    Attributes:
        steps: The steps at which the free run was compared.
        drift: The largest |w - reference| over all weights at each of them.
        band: The same of the reference's runs with noise, the largest of them.
        one_step: The largest share of the budget in each single step from the reference's weights.
    """

    runner: str
    case: str
    dtype: str
    optimizer: str
    steps: tuple[int, ...]
    drift: tuple[float, ...]
    band: tuple[float, ...]
    one_step: tuple[float, ...]


def measure_drift(judge: Judge, runner: str, task: Task, results: Results) -> Trajectory:
    """Compare a free run with the reference's at each mark."""
    outputs, solution = results.outputs, results.solution
    job = task.job
    settings: Mapping[str, Any] = job.training or {}
    names, kept = list(job.weights), marks(settings["steps"])

    def distance(run: Mapping[str, np.ndarray], i: int) -> float:
        free = {name: solution[Quantity(Kind.FREE, name)][0] for name in names}
        return max(float(np.abs(run[name][i] - free[name][i]).max(initial=0.0)) for name in names)

    def share(name: str, step: int) -> float:
        quantity = Quantity(Kind.STEP, name)
        value, error = (part[step] for part in solution[quantity])
        off = np.abs(outputs[quantity].values[step] - value)
        return float((off / (judge.c * judge.budget(value, error))).max(initial=0.0))

    free = {name: outputs[Quantity(Kind.FREE, name)].values.astype(np.float64) for name in names}
    bands = [{n: solution[Quantity(Kind.BAND, n, run=run)][0] for n in names} for run in range(PERTURBED)]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # infinite in a picture, and judged elsewhere
        one_step = [max(share(name, step) for name in names) for step in range(settings["steps"])]
        drift = [distance(free, i) for i in range(len(kept))]
    optimizer = settings["optimizer"]
    return Trajectory(
        runner,
        job.case,
        job.dtype,
        f"{optimizer}, native" if results.note else optimizer,
        tuple(kept),
        tuple(drift),
        tuple(max(distance(band, i) for band in bands) for i in range(len(kept))),
        tuple(float(f"{use:.4g}") for use in one_step),
    )
