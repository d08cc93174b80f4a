"""Drawing the data of a case."""

import math
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .axes import Axes, SpecError, parse, shape_of
from .sources import SIZES, Arrays, Draw, Rng, Source, axes_of
from .spec import Case, Spec


@dataclass(frozen=True)
class Drawn:
    """A case's data in float64, before a job rounds them to a dtype."""

    config: dict[str, Any]
    axes: dict[str, Axes]  # of each input, weight and state
    inputs: Arrays
    weights: Arrays
    state: Arrays
    cotangents: Arrays


def draw(spec: Spec, case: Case) -> Drawn:
    """Draw a case's inputs, weights and state, the same at each call.

    Raises:
        SpecError: If a name or a shape differs from the specification's, or a weight could not tell a right layer from
            a wrong one.
    """
    rng = np.random.default_rng(list(f"{case.name}".encode()))
    config = {**SIZES, **spec.config, **case.config}
    returned = _called(f"draw of case {case.name}", case.draw, rng, config) if case.draw else {}
    if not isinstance(returned, Mapping):
        raise SpecError(f"draw of case {case.name} must return arrays by name. Received: {type(returned).__name__}.")
    drawn = {name: np.asarray(array) for name, array in returned.items()}
    groups = spec.sources(case)
    axes = {name: axes_of(source) for sources in groups.values() for name, source in sources.items()}
    outputs = {f"d{name}": (name, parse(text)) for name, text in spec.outputs_of(case).items()}  # "dy" is y's cotangent
    known = [*axes, *outputs]
    for name in drawn:
        if name not in known:
            raise SpecError(f"case {case.name} must draw some of {', '.join(known)}. Received: {name!r}.")
    kept = {axis for _, order in outputs.values() for axis in order}

    def made(group: str, name: str, source: Source) -> np.ndarray:
        if name in drawn:
            return drawn[name]
        if isinstance(source, Draw):
            shape = shape_of(axes[name], config, f"{name!r}")
            return np.asarray(_called(f"the generator of {name!r}", source.make, rng, shape))
        values = _normal(name, axes[name], rng, config, offsets=group == "inputs")
        if group == "inputs":
            return values * case.scale
        return values / math.sqrt(_fan_in(axes[name], values.shape, kept)) if group == "weights" else values

    arrays: dict[str, Arrays] = {
        group: {name: made(group, name, source) for name, source in sources.items()}
        for group, sources in groups.items()
    }
    cotangents = {name: drawn[key] for key, (name, _) in outputs.items() if key in drawn}
    shaped = {key: (drawn[key], order) for key, (_, order) in outputs.items() if key in drawn and order}
    shaped |= {name: (array, axes[name]) for group in arrays.values() for name, array in group.items()}
    for name, (array, order) in shaped.items():
        if name in outputs and not all(axis.isdigit() or axis in config for axis in order):
            continue  # the reference's run gives the sizes
        expected = shape_of(order, config, f"{name!r}")
        if array.shape != expected:
            raise SpecError(
                f"{name!r} of case {case.name} must have the shape {expected} of {' '.join(order)!r}. "
                f"Received: {array.shape}."
            )
    for name, array in arrays["weights"].items():
        _check_telling(name, array, case.name, axes[name])
    return Drawn(config, axes, **arrays, cotangents=cotangents)


def _called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a user's function; what it raises is one line that names the function."""
    try:
        return function(*arguments)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise SpecError(
            f"{what} must not raise. It raised {type(error).__name__}: {error}, at {place.filename}:{place.lineno}."
        ) from error


def _check_telling(name: str, weight: np.ndarray, case: str, axes: Axes) -> None:
    """Refuse a constant or symmetric weight, which flipping or transposing would not change."""
    if weight.size < 2:
        return
    where = f"weight {name!r} of case {case}"
    remedy = "Draw it at random, as normal() does."
    if (weight == weight.flat[0]).all():
        raise SpecError(f"{where} must not be constant: any permutation of it would pass. {remedy}")
    for axis, label in enumerate(axes):
        if weight.shape[axis] > 1 and np.array_equal(weight, np.flip(weight, axis)):
            raise SpecError(f"{where} must not be symmetric along {label!r}: a flipped one would pass. {remedy}")
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1] and np.array_equal(weight, weight.T):
        raise SpecError(f"{where} must not be symmetric: a transposed one would pass. {remedy}")


def _fan_in(axes: Axes, shape: tuple[int, ...], kept: Collection[str]) -> int:
    """Return how many products one output sums: those of the axes that no output has, or of all but the last."""
    summed = [number for number, axis in enumerate(axes) if axis not in kept]
    return math.prod(shape[number] for number in (summed if len(summed) < len(axes) else summed[:-1]))


def _normal(name: str, axes: Axes, rng: Rng, config: Mapping[str, Any], *, offsets: bool) -> np.ndarray:
    shape = shape_of(axes, config, f"{name!r}")
    values = rng.normal(size=shape)
    if offsets and "C" in axes:  # equal means would hide a mix of channels
        axis = axes.index("C")
        values = values + rng.uniform(-2, 2, [n if i == axis else 1 for i, n in enumerate(shape)])
    return values
