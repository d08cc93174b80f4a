"""Whether tensors can be what was asked for, before anything is judged by them or against them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.tensor import Kind, Quantity, Solution

from .messages import Malformed
from .training import PERTURBED, marks

TRAINED = (Kind.STEP, Kind.FREE)  # what training returns for each weight
SOLVED = (Kind.START, Kind.STEP, Kind.FREE, Kind.BAND)  # what the reference's training returns for each weight


def check_finite(job: Job, solution: Solution) -> None:
    """Refuse a reference that is NaN or infinite for finite data: nothing could be judged by it.

    Raises:
        SpecError: Naming the tensor and the place.
    """
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


def check_trained(job: Job, shapes: Mapping[Quantity, tuple[int, ...]], kinds: Sequence[Kind]) -> None:
    """Refuse tensors of training that lack a weight, or a step of one.

    Raises:
        Malformed: Naming the tensor.
    """
    steps = (job.training or {})["steps"]
    for name, weight in job.weights.items():
        for quantity in _expected(name, kinds):
            first = steps if quantity.kind in (Kind.START, Kind.STEP) else len(marks(steps))
            expected, received = (first, *weight.shape), shapes.get(quantity)
            if received != expected:
                raise Malformed(f"{quantity.label} must have the shape {expected}. Received: {received or 'none'}.")


def _expected(weight: str, kinds: Sequence[Kind]) -> Iterator[Quantity]:
    for kind in kinds:
        for run in range(PERTURBED if kind is Kind.BAND else 1):
            yield Quantity(kind, weight, run=run)
