"""Canonical weights in and out of whole networks."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi._canonical import Weights, check_weights, narrowest, widened
from eca_multi.checkpoints.identify import Identified, identify

from ._owned import assign, owned

# The canonical names and kinds of the variables of each class of layer, in order. An ECA's kernel becomes (1, 1, k), as
# in torch.
VARIABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "Conv1D": (("weight", "conv"),),
    "Conv2D": (("weight", "conv"),),
    "DepthwiseConv1D": (("weight", "depthwise"),),
    "DepthwiseConv2D": (("weight", "depthwise"),),
    "BatchNormalization": (
        ("weight", "norm_scale"),
        ("bias", "norm_bias"),
        ("running_mean", "norm_mean"),
        ("running_var", "norm_var"),
    ),
    "Dense": (("weight", "dense"), ("bias", "dense_bias")),
    "ECA": (("weight", "eca"),),
}
# Where the first two axes of torch's layout, (out, in, *S), stand in Keras's.
_AXES = {"conv": (-1, -2), "depthwise": (-2, -1), "dense": (1, 0), "eca": (2, 1)}


def names_in(layer: str, cls: str, count: int) -> list[tuple[str, str]]:
    """Return the canonical name and the kind of each variable of a layer; unknown variables keep their numbers."""
    path = layer.replace("_", ".")
    known = VARIABLES.get(cls, ())
    if len(known) != count:
        return [(f"{path}.{i}", "") for i in range(count)]
    return [(f"{path}.{name}", kind) for name, kind in known]


def canonical_view(kind: str, native: np.ndarray) -> np.ndarray:
    """Return an array of Keras's in torch's layout; a view."""
    return np.moveaxis(native, _AXES[kind], (0, 1)) if kind in _AXES and native.ndim > 1 else native


def native_view(kind: str, array: np.ndarray) -> np.ndarray:
    """Return an array of torch's layout in Keras's; a view."""
    if kind == "eca":
        return array.reshape(-1, 1, 1)
    return np.moveaxis(array, (0, 1), _AXES[kind]) if kind in _AXES else array


def identify_network(model: Any) -> Identified:
    """Find a model's network by the names and shapes of its layers; raise CheckpointError if no network fits."""
    views = [(name, kind, np.broadcast_to(np.float32(0), variable.shape)) for name, kind, variable in _variables(model)]
    return identify({name: canonical_view(kind, view).shape for name, kind, view in views})


def network_to_canonical(model: Any) -> Weights:
    """Return a network's weights and statistics as a canonical dict of NumPy arrays; a copy."""
    network = identify_network(model)
    arrays = {
        name: canonical_view(kind, widened(ops.convert_to_numpy(variable)))
        for name, kind, variable in _variables(model)
    }
    return {name: np.array(arrays[name].reshape(tensor.shape)) for name, tensor in network.tensors.items()}


def network_from_canonical(model: Any, weights: Mapping[str, np.ndarray]) -> Any:
    shapes = {name: tensor.shape for name, tensor in identify_network(model).tensors.items()}
    native = {name: (kind, variable) for name, kind, variable in _variables(model)}
    dtypes = {keras.backend.standardize_dtype(variable.dtype) for _, variable in native.values()}
    arrays = check_weights(weights, shapes, narrowest(dtypes))
    variables = {name: variable for name, (_, variable) in native.items()}
    new = {name: owned(native_view(kind, arrays[name]), variable) for name, (kind, variable) in native.items()}
    return assign(model, variables, new)


def _variables(model: Any) -> Iterator[tuple[str, str, Any]]:
    for layer in model.layers:
        variables = layer.weights
        names = names_in(layer.name, type(layer).__name__, len(variables))
        for (name, kind), variable in zip(names, variables, strict=True):
            yield name, kind, variable
