"""The orders of axes in which a port takes its inputs and returns its outputs: as given, or found by trying."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.structures import restore

from .alike import run_of
from .layouts import Layouts, Order, candidates, distance, given, order_of
from .model import Model

_NEAR = 0.05  # relative distance of all outputs at which no other order is tried


def find_layouts(
    port: Model,
    inputs: Any,
    arrays: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    dtype: str,
    wanted: str | Mapping[str, str] | None,
) -> Layouts:
    """Return the orders in which the port agrees best with the reference's outputs, or those that are given.

    Raises:
        SpecError: If the port takes the inputs in no order, or returns another number of outputs.
    """
    shapes = {name: array.shape for name, array in (*arrays.items(), *outputs.items())}
    fixed = given(wanted, shapes) if wanted is not None else {}
    tried: list[tuple[float, Layouts]] = []
    faults: list[SpecError] = []
    for orders in [fixed] if wanted is not None else _of_inputs(arrays):
        start = Layouts(orders)
        moved = restore("x", inputs, {name: start.to_port(name, array) for name, array in arrays.items()})
        try:
            returned = run_of("the port", port, moved, dtype).outputs
        except SpecError as error:
            faults.append(error)
            continue
        names = _paired(outputs, returned)
        measured = {n: _order_of(outputs[n], returned[names[n]], orders.get(n), wanted is not None) for n in outputs}
        far = max((far for _, far in measured.values()), default=0.0)
        every = {**orders, **{name: order for name, (order, _) in measured.items()}}
        usual = order_of(wanted, "layouts") if isinstance(wanted, str) else _usual(every, shapes)
        tried.append((far, Layouts(every, usual, names)))
        if far < _NEAR:
            break
    if not tried:
        raise faults[0]
    return min(tried, key=lambda item: item[0])[1]


def _of_inputs(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, Order]]:
    """Yield the orders to try: the reference's for all, then channels moved in every floating input of three axes."""
    large = {n: a.ndim for n, a in arrays.items() if a.dtype.kind == "f" and a.ndim > 2}
    choices = [[*candidates(axes)] for axes in large.values()]
    for number in range(max(map(len, choices), default=1)):
        yield {name: orders[number] for name, orders in zip(large, choices, strict=True)}


def _usual(orders: Mapping[str, Order], shapes: Mapping[str, tuple[int, ...]]) -> Order:
    """Return the order of the tensor of most axes whose axes move, or else that of most axes, which stay."""
    most = max(map(len, shapes.values()), default=0)
    return max(orders.values(), key=len, default=()) or tuple(range(most))


def _paired(outputs: Mapping[str, np.ndarray], returned: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Pair the outputs by name where all names are known, and else by position."""
    if set(outputs) <= set(returned):
        return {name: name for name in outputs}
    if len(outputs) != len(returned):
        raise SpecError(
            f"both models must return the same outputs. Received: {', '.join(outputs)} from the reference, "
            f"{', '.join(returned) or 'nothing'} from the port. Wrap one in a function that returns the others'."
        )
    return dict(zip(outputs, returned, strict=True))


def _order_of(value: np.ndarray, own: np.ndarray, known: Order | None, is_given: bool) -> tuple[Order, float]:
    """Return the order that turns the reference's output nearest to the port's, and the distance."""
    orders = [known or ()] if is_given else [*candidates(value.ndim)]
    measured = []
    for order in orders:
        turned = value.transpose(order) if order else value
        measured.append((distance(own.astype(np.float64), turned) if own.shape == turned.shape else np.inf, order))
    far, order = min(measured, key=lambda item: item[0])
    return order, float(far)
