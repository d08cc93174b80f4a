"""The map between the weights of two models, and whether the port holds the reference's values."""

from collections.abc import Mapping

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.map_names import REFERENCE
from eca_multi.parity.define.maps import WeightMap

from .model import Arrays, Model

_SHOWN = 5  # names in one line


def map_of(reference: Model, port: Model, entries: Mapping[str, str | None]) -> WeightMap:
    """Read a map from the reference's weights to the port's; a counter, which is no float, needs no entry."""
    return read_map(entries, reference.weights(), reference.shared, port)


def read_map(entries: Mapping[str, str | None], given: Arrays, shared: Mapping[str, str], port: Model) -> WeightMap:
    """Read a map from arrays of a reference, of which `shared` names those that are one array, to a port's weights."""
    own = port.weights()
    wholes = {name: None for name, array in own.items() if not _is_float(array)}
    floats = {name: array.shape for name, array in given.items() if _is_float(array)}
    shapes = {name: array.shape for name, array in own.items()}
    both = shared, port.shared
    found = WeightMap.of({**wholes, **entries}, floats, shapes, "the port", source=REFERENCE, shared=both)
    _check_tied(found, *both)
    return found


def unlike(reference: Model, port: Model, weights: WeightMap) -> str:
    """Say which weights of the port hold other values than the reference's, or "" for none."""
    ours = {name: array for name, array in reference.weights().items() if _is_float(array)}
    theirs = weights.to_native(ours)
    held = port.weights()
    wrong = [name for name, array in theirs.items() if not np.array_equal(held[name], array, equal_nan=True)]
    if not wrong or not ours:
        return ""
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    named = ", ".join(f"{name} (of {weights.held(name)})" for name in wrong[:_SHOWN])
    return (
        f"the port does not hold the reference's weights: {named}{more}. Copy them with parity.port_weights, or mend "
        "the map if the port's outputs are right"
    )


def _check_tied(weights: WeightMap, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Refuse a gradient that is counted twice, or once where two are to be added."""
    places: dict[str, str] = {}
    for native, part in weights.parts.items():
        for name in part.entry.names if not part.entry.is_part else ():
            first, own = ours.get(name, name), theirs.get(native, native)
            other = places.setdefault(first, own)
            if other == own and part.entry.tied and native in theirs:
                raise SpecError(
                    f"{native!r} of the port must be left out of the map. Received: the array that {own!r} is too. "
                    "Map it to None."
                )
            if other != own and not part.entry.tied and first != name:
                raise SpecError(
                    f"{name!r} of the reference must be written as {first!r}, which is the same array. Received: "
                    f"{part.entry.text!r} for {native!r}. The port keeps it twice: write ', tied' behind the axes."
                )


def _is_float(array: np.ndarray) -> bool:
    return "float" in array.dtype.name
