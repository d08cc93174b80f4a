"""The weight map of an adapter, from the layer's parameters and buffers to the specification's weights and states."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.maps import WeightMap


def map_of(adapter: Adapter, job: Job, native: Mapping[str, Any] | None = None) -> WeightMap:
    """Return the map of a layer with these parameters and buffers; None is a function, whose map gives its names."""
    who = type(adapter).__name__
    canonical = {name: np.shape(array) for name, array in {**job.weights, **job.state}.items()}
    shapes = None if native is None else {name: tuple(array.shape) for name, array in native.items()}
    return WeightMap.of(adapter.weights_for(job.config), canonical, shapes, who, job.config)


def native_weights(job: Job, weight_map: WeightMap) -> dict[str, np.ndarray]:
    """Return the job's weights and states under the layer's names, in its axis orders."""
    return weight_map.to_native({**job.weights, **job.state})


def function_weights(adapter: Adapter, job: Job) -> dict[str, np.ndarray]:
    """Return the weights for a function, whose names and shapes the map alone gives."""
    return native_weights(job, map_of(adapter, job))


def check_trained(adapter: Adapter, job: Job, weight_map: WeightMap, trained: Collection[str]) -> None:
    """Refuse a weight that the layer does not train, since a frozen weight has no gradient to compare."""
    for name in weight_map.holding(job.weights) if job.gradients else ():
        if name not in trained:
            held = weight_map.held(name)
            raise SpecError(
                f"{name!r} of {type(adapter).__name__} must be trained to be the weight {held!r}. "
                f"Received: a buffer, or a parameter that is frozen. Make {held!r} a state of the "
                "specification, or train it."
            )
