"""Axis orders of two models: given in einops' language, or found from shapes, from values, and by trying."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from eca_multi.parity.define.axes import SpecError, parse
from eca_multi.parity.define.hints import did_you_mean

Order = tuple[int, ...]  # the axes of the reference in the order in which the port has them

_MOST_AXES = 6  # of a tensor whose permutations are tried
_DECISIVE = 0.5  # of the distance in the expected order: another order must be nearer than that


@dataclass(frozen=True)
class Layouts:
    """The order of each input and output: a name that is missing keeps the reference's."""

    orders: Mapping[str, Order] = field(default_factory=dict)
    usual: Order = ()  # of the tensors inside with as many axes; where it fits, no other is tried
    names: Mapping[str, str] = field(default_factory=dict)  # of the port's outputs, by the reference's

    @property
    def inverse(self) -> Order:
        """The order that turns such a tensor of the port back."""
        return tuple(int(axis) for axis in np.argsort(self.usual))

    def to_port(self, name: str, array: np.ndarray) -> np.ndarray:
        order = self.orders.get(name, ())
        return array.transpose(order) if order else array

    def to_reference(self, name: str, array: np.ndarray) -> np.ndarray:
        order = self.orders.get(name, ())
        return array.transpose(np.argsort(order)) if len(order) == array.ndim and order else array

    def __str__(self) -> str:
        return ", ".join(f"{name}: {_text(order)}" for name, order in self.orders.items() if order) or "the same"


def given(layouts: str | Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Order]:
    """Read "N C H W -> N H W C", for all tensors with as many axes, or such a text for each name.

    Example:
        >>> given("N C H W -> N H W C", {"x": (2, 3, 8, 9), "y": (2, 10)})
        {'x': (0, 2, 3, 1)}
    """
    if isinstance(layouts, str):
        order = order_of(layouts, "layouts")
        if not any(len(shape) == len(order) for shape in shapes.values()):
            held = ", ".join(f"{name} of {len(shape)}" for name, shape in shapes.items())
            raise SpecError(f"layouts must have the axes of an input or output: {held}. Received: {layouts!r}.")
        return {name: order for name, shape in shapes.items() if len(shape) == len(order)}
    if not isinstance(layouts, Mapping):
        raise TypeError(f"layouts must be a text or a dict of texts. Received: {type(layouts).__name__}.")
    orders = {name: order_of(text, f"layouts[{name!r}]") for name, text in layouts.items()}
    for name, order in orders.items():
        if name not in shapes:
            near = did_you_mean(name, shapes)
            raise SpecError(f"layouts must name inputs and outputs: {', '.join(shapes)}. Received: {name!r}.{near}")
        if len(shapes[name]) != len(order):
            raise SpecError(
                f"layouts[{name!r}] must have the {len(shapes[name])} axes of {name}. Received: {len(order)}."
            )
    return orders


def candidates(axes: int) -> Iterator[Order]:
    """Yield the orders that are tried for a tensor: its own, channels moved to the end, channels moved to the front."""
    yield ()
    if axes > 2:
        yield (0, *range(2, axes), 1)
        yield (0, axes - 1, *range(1, axes - 1))


def aligned(array: np.ndarray, like: np.ndarray, usual: Order = ()) -> np.ndarray | None:
    """Return the array in the axis order of another one, or None where no order gives that one's shape.

    `usual` is the order expected of this array's axes: where that order gives the shape, no other one is tried. Where
    it does not, axes of length one do not count, and of the orders that give the shape the first is taken,
    unless the values are decisively nearer in another.
    """
    if len(usual) == array.ndim and array.transpose(usual).shape == like.shape:
        return array.transpose(usual)
    small, wanted = array.squeeze(), like.squeeze()
    if sorted(small.shape) != sorted(wanted.shape) or small.ndim > _MOST_AXES:
        return None
    orders = [o for o in permutations(range(small.ndim)) if tuple(small.shape[i] for i in o) == wanted.shape]
    best = orders[0]
    if len(orders) > 1:
        distances = [distance(small.transpose(order), wanted) for order in orders]
        nearest = int(np.argmin(distances))
        if distances[nearest] < _DECISIVE * distances[0]:
            best = orders[nearest]
    return small.transpose(best).reshape(like.shape)


def distance(array: np.ndarray, like: np.ndarray) -> float:
    """Return |array - like| / |like|, of the root mean squares; infinite where it is no number."""
    if array.shape != like.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        difference = np.linalg.norm((array.astype(np.float64) - like).ravel())
        size = np.linalg.norm(np.float64(like).ravel())
        ratio = difference / size if size > 0 else difference
    return float(ratio) if np.isfinite(ratio) else float("inf")


def order_of(text: str, what: str) -> Order:
    """Read one text of `layouts`, which `what` names in errors."""
    left, arrow, right = text.partition("->")
    source, target = parse(left.strip()), parse(right.strip())
    if not arrow or sorted(source) != sorted(target) or len(set(source)) < len(source):
        raise SpecError(
            f"{what} must be a permutation of axes, as in 'N C H W -> N H W C': the reference's, then the port's. "
            f"Received: {text!r}."
        )
    return tuple(source.index(axis) for axis in target)


def _text(order: Order) -> str:
    names = "".join(chr(ord("A") + axis) for axis in range(len(order)))
    if len(order) == 4:
        names = "NHWC" if order == (0, 3, 1, 2) else "NCHW"
    return f"{names} -> {''.join(names[axis] for axis in order)}"
