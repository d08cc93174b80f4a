"""The map between the weights of two models, and whether the port holds the reference's values."""

from collections.abc import Mapping

import numpy as np

from eca_multi.parity.define.maps import WeightMap

from .model import Model

_SHOWN = 5  # names in one line


def map_of(reference: Model, port: Model, entries: Mapping[str, str | None]) -> WeightMap:
    """Read a map from the reference's weights to the port's; a counter, which is no float, needs no entry."""
    ours, theirs = _floats(reference), _floats(port)
    wholes = {name: None for name, array in port.weights().items() if name not in theirs}
    shapes = {name: array.shape for name, array in port.weights().items()}
    return WeightMap.of({**wholes, **entries}, {n: a.shape for n, a in ours.items()}, shapes, "the port")


def unlike(reference: Model, port: Model, weights: WeightMap) -> str:
    """Say which weights of the port hold other values than the reference's, or "" for none."""
    ours, theirs = _floats(reference), weights.to_native(_floats(reference))
    held = port.weights()
    wrong = [name for name, array in theirs.items() if not np.array_equal(held[name], array, equal_nan=True)]
    if not wrong or not ours:
        return ""
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    named = ", ".join(f"{name} (of {weights.held(name)})" for name in wrong[:_SHOWN])
    return f"the port does not hold the reference's weights: {named}{more}. Copy them with parity.port_weights"


def _floats(model: Model) -> dict[str, np.ndarray]:
    return {name: array for name, array in model.weights().items() if array.dtype.kind == "f"}
