"""The orders of axes in which a port takes its inputs and returns its outputs: as given, or found by trying."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
        SpecError: If the port takes the inputs in no order, or returns another number of outputs, or orders that are
            given are not the port's.
    """
    shapes = {name: array.shape for name, array in (*arrays.items(), *outputs.items())}
    trials = _Trials(port, inputs, arrays, outputs, dtype)
    if wanted is None:
        return trials.best([*trials.of(_of_inputs(arrays))])
    fixed = given(wanted, shapes)
    usual = order_of(wanted, "layouts") if isinstance(wanted, str) else ()
    tried = [*trials.of([fixed], usual)]
    if not tried or tried[0].far >= _NEAR:
        trials.check(wanted, fixed, tried)
    return trials.best(tried)


@dataclass(frozen=True)
class _Trial:
    """Orders with which the port was run, and how far its outputs then are from the reference's."""

    far: float
    layouts: Layouts
    returned: Mapping[str, tuple[int, ...]]  # the shapes of the port's outputs, by the reference's names


@dataclass
class _Trials:
    """Runs of a port on the reference's inputs in several orders of axes."""

    port: Model
    inputs: Any
    arrays: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    dtype: str
    faults: list[SpecError] = field(default_factory=list)

    def of(self, every: Iterable[Mapping[str, Order]], usual: Order = ()) -> Iterator[_Trial]:
        """Try orders until the outputs agree; those of outputs that are not among them are found."""
        shapes = {name: array.shape for name, array in (*self.arrays.items(), *self.outputs.items())}
        for orders in every:
            start = Layouts(orders)
            moved = {name: start.to_port(name, array) for name, array in self.arrays.items()}
            try:
                returned = run_of("the port", self.port, restore("x", self.inputs, moved), self.dtype).outputs
            except SpecError as error:
                self.faults.append(error)
                continue
            names = _paired(self.outputs, returned)
            measured = {n: _order_of(a, returned[names[n]], orders.get(n)) for n, a in self.outputs.items()}
            far = max((far for _, far in measured.values()), default=0.0)
            found = {**orders, **{name: order for name, (order, _) in measured.items()}}
            layouts = Layouts(found, usual or _usual(found, shapes), names)
            yield _Trial(far, layouts, {n: returned[names[n]].shape for n in self.outputs})
            if far < _NEAR:
                return

    def best(self, tried: Sequence[_Trial]) -> Layouts:
        if not tried:
            raise self.faults[0]
        return min(tried, key=lambda trial: trial.far).layouts

    def check(self, wanted: object, fixed: Mapping[str, Order], tried: Sequence[_Trial]) -> None:
        """Refuse given orders that are wrong themselves, so that the port is not blamed for what they do."""
        for name, back in tried[0].returned.items() if tried else ():
            shape = self.outputs[name].shape
            made = tuple(shape[axis] for axis in fixed.get(name, ()))
            if name in fixed and made != back and sorted(made) == sorted(back):
                raise SpecError(
                    f"layouts must give {name} the order of axes in which the port returns it. Received: {wanted!r}, "
                    f"which makes {shape} of the reference {made}, where the port returns {back}."
                )
        faults = [*self.faults]
        for trial in self.of(_of_inputs(self.arrays)):
            if trial.far < _NEAR:
                raise SpecError(
                    f"layouts must give the orders of axes of the port. Received: {wanted!r}; the outputs agree by "
                    f"{trial.layouts}."
                )
        if faults:
            raise SpecError(f"{faults[0]} The inputs are in the order of layouts={wanted!r}: is it the port's?")


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


def _order_of(value: np.ndarray, own: np.ndarray, known: Order | None) -> tuple[Order, float]:
    """Return the order that turns the reference's output nearest to the port's, and the distance."""
    measured = []
    for order in candidates(value.ndim) if known is None else [known]:
        turned = value.transpose(order) if order else value
        measured.append((distance(own.astype(np.float64), turned) if own.shape == turned.shape else np.inf, order))
    far, order = min(measured, key=lambda item: item[0])
    return order, float(far)
