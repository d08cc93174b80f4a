"""Taps whose axes have no names: their order in a port of another layout, from their shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity, Solution, Tensor

from .compare import judge

Order = tuple[int, ...]
MOST_AXES = 6  # whose 720 orders are looked through


@dataclass(frozen=True)
class Aligned:
    """The results with their taps in the reference's order. `unclear` names taps whose order several shapes allow."""

    results: Outputs
    unclear: tuple[str, ...] = ()


def align(job: Job, results: Outputs, solution: Solution, c: float) -> Aligned:
    """Bring the taps of a runner, and their gradients, into the reference's order of axes.

    A tap of which the specification names the axes has that order already. For any other one whose shape differs, the
    order is taken from the shapes: the only one that gives the reference's shape; among several the one that moves a
    single axis, if there is one such; and else the one that agrees with the reference. A tap for which none of these
    decides is left out, and named.
    """
    moved, unclear = dict(results), []
    for name in job.taps:
        tap = Quantity(Kind.TAP, name)
        if name in job.axes or tap not in results or tap not in solution:
            continue
        order = _order(results[tap], *solution[tap], c)
        for quantity in (tap, Quantity(Kind.TAP_GRADIENT, name)):
            if quantity in moved and order is None:
                del moved[quantity]
            elif quantity in moved and order and moved[quantity].values.ndim == len(order):
                moved[quantity] = _transposed(moved[quantity], order)
        if order is None:
            unclear.append(name)
    return Aligned(moved, tuple(unclear))


def _order(result: Tensor, value: np.ndarray, error: np.ndarray, c: float) -> Order | None:
    """Return the order of axes; () to leave the tensor as it is, and None where several would do."""
    shape = result.values.shape
    if sorted(shape) != sorted(value.shape) or len(shape) > MOST_AXES or len(shape) < 2:
        return ()
    if shape == value.shape and judge(result, value, error, None, c).verdict.green:
        return ()
    fitting = [order for order in permutations(range(len(shape))) if _shape(shape, order) == value.shape]
    agreeing = (order for order in fitting if judge(_transposed(result, order), value, error, None, c).verdict.green)
    if shape == value.shape:  # a wrong value, unless another order makes it right
        return next(agreeing, ())
    for few in (fitting, [order for order in fitting if _moves_one(order)]):
        if len(few) == 1:
            return few[0]
    return next(agreeing, None)


def _shape(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in order)


def _transposed(tensor: Tensor, order: Order) -> Tensor:
    return Tensor(tensor.values.transpose(order), tensor.dtype)


def _moves_one(order: Order) -> bool:
    """Return whether an order moves one axis, such as that of the channels, and keeps the others as they were."""
    return any(list(rest) == sorted(rest) for rest in _without_one(order))


def _without_one(order: Order) -> Iterator[Order]:
    return (order[:place] + order[place + 1 :] for place in range(len(order)))
