"""Adds that no operation of Keras tells by its name: a layer that adds its inputs, and the adds inside of a layer."""

import random
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi.keras._private import arguments, nodes_of, same_name_counts
from eca_multi.surgery.candidate import Candidate

from .graph import Call
from .kinds import is_add, is_opaque, kind, parts, weighted
from .places import Places, Site

INSIDE = (
    "adds inside of the layer {!r} ({}), whose code the graph hides: gate the layer's output, where=[{!r}], or build "
    "the layer's network with the Functional API"
)
SIZE = 3  # of an axis of unknown size, in a trial


def adds(call: Call) -> bool:
    """Whether a call adds its inputs: an Add, or a layer of the user's own that does, scaled ones too.

    Of the user's layers the code is not read. Two tensors are added, in some proportion, if f(a, b) + f(0, 0) is
    f(a, 0) + f(0, b) and each of a and b counts: tried once, on small arrays.
    """
    if is_add(call.operation):
        return True
    module = type(call.operation).__module__  # keras.applications has layers beside those of keras.layers
    own = type(call.operation) is keras.layers.Lambda or not module.startswith(("keras.src.layers.", "keras.src.ops."))
    shapes = {tuple(tensor.shape) for tensor in (*call.inputs, *call.outputs)}
    if not own or call.node is None or len(call.inputs) != 2 or len(call.outputs) != 1 or len(shapes) != 1:
        return False
    if parts(call.operation)[1:] or getattr(call.operation, "weights", []):
        return False
    try:
        return _is_sum(call)
    except Exception:  # a layer that does not take these arrays is none that adds them
        return False


def _is_sum(call: Call) -> bool:
    shape = [2, *(size or SIZE for size in call.inputs[0].shape[1:])]
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 1.5, shape).astype("float32") for _ in range(2))
    none = np.zeros_like(a)

    def run(x: Any, y: Any) -> Any:
        tensors = {id(t): ops.cast(v, t.dtype) for t, v in zip(call.inputs, (x, y), strict=True)}
        args, kwargs = arguments(call.node, tensors)
        with keras.StatelessScope():  # what the layer assigns is forgotten
            return np.asarray(ops.convert_to_numpy(ops.cast(call.operation(*args, **kwargs), "float32")))

    both, first, second, zero = run(a, b), run(a, none), run(none, b), run(none, none)
    apart = np.abs(both + zero - first - second).max() <= 1e-2 * np.abs(both).max()
    return bool(apart and np.abs(first - zero).max() > 0 and np.abs(second - zero).max() > 0)


def hidden_adds(places: Places) -> list[Site]:
    """Return the adds of two maps inside of layers with convolutions, each as a site that cannot be taken."""
    sites = []
    for operation in places.network.in_order():
        if is_opaque(operation) and weighted(operation, also_dense=False):
            path = places.network.path(operation)
            reason = INSIDE.format(path, kind(operation), path)
            for name in _adds_in(next(call for _, call in places.network.calls(operation))):
                inside = Candidate(f"{path}/{name}", operation, "before_add", "Add", reason=reason, what="add")
                sites.append(Site(inside, operation))
    return sites


def _adds_in(call: Call) -> list[str]:
    """Return the names of the adds in a layer's call, from the graph that a copy of the layer makes."""
    if call.node is None or any(t is None or t.shape is None for t in call.inputs):
        return []
    state = random.getstate()  # of which initializers without a seed draw
    try:
        with same_name_counts():
            copy = type(call.operation).from_config(call.operation.get_config())
            return _adds_of(copy, call.node)
    except Exception:  # code that needs values, or layers that build has still to make
        return []
    finally:
        random.setstate(state)


def _adds_of(layer: Any, node: Any) -> list[str]:
    """Return the paths of the adds in a layer and in the layers in it, as in the call that a node records."""
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in node.input_tensors]
    args, kwargs = arguments(node, {id(old): new for old, new in zip(node.input_tensors, inputs, strict=True)})
    paths = []
    for inner in nodes_of(keras.Function(inputs, keras.tree.flatten(layer.call(*args, **kwargs)))):
        name = inner.operation.name
        if is_add(inner.operation) and len(inner.input_tensors) == 2:
            paths.append(str(name))
        elif is_opaque(inner.operation) and weighted(inner.operation, also_dense=False):
            paths += [f"{name}/{path}" for path in _adds_of(inner.operation, inner)]
    return paths
