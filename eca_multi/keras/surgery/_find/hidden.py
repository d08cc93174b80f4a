"""Adds that no operation of Keras tells by its name: a layer that adds its inputs, and the adds inside of a layer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi.keras._private import arguments, nodes_of, same_name_counts, untouched
from eca_multi.surgery.candidate import Candidate

from .graph import Call
from .kinds import is_add, is_opaque, kind, parts, weighted
from .places import Places, Site

INSIDE = "adds inside of the layer {!r} ({}), whose code the graph hides: {}"
UNREAD = "the code of the layer {!r} ({}) could not be read ({}), so its adds are not known: {}"
TOKENS = "adds tokens (N, T, C), no feature maps"
SIZE = 3  # of an axis of unknown size, in a trial
BATCH = 2


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
    shape = [BATCH, *(size or SIZE for size in call.inputs[0].shape[1:])]
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
    """Return the adds of two maps inside of layers with weights, each as a site that cannot be taken.

    A layer with convolutions that could not be read is such a site itself.
    """
    sites = []
    for operation in places.network.in_order():
        if _hides(operation):
            path = places.network.path(operation)
            sequences = not any("1D" in kind(part) for part in parts(operation))
            call = next(call for _, call in places.network.calls(operation))
            remedy = _remedy(path, call)
            try:
                found = _adds_in(call)
            except Exception as error:  # code that needs values, or that Keras cannot trace inside of another layer
                said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                reason = UNREAD.format(path, kind(operation), said, remedy)
                found, convolutions = [], weighted(operation, also_dense=False)
                if convolutions:
                    sites.append(Site(_refused(path, operation, reason, kind(operation)), operation))
            for name, rank in found:
                reason = TOKENS if rank == 3 and sequences else INSIDE.format(path, kind(operation), remedy)
                sites.append(Site(_refused(f"{path}/{name}", operation, reason, "Add"), operation))
    return sites


def _remedy(path: str, call: Call) -> str:
    rebuilt = "build the layer's network with the Functional API"
    return f"gate the layer's output, where=[{path!r}], or {rebuilt}" if len(call.outputs) == 1 else rebuilt


def _refused(path: str, operation: Any, reason: str, module: str) -> Candidate:
    return Candidate(path, operation, "before_add", module, reason=reason, what="add")


def _hides(operation: Any) -> bool:
    """Whether a layer is not one of Keras's own, and has layers with weights that the graph does not show."""
    own = type(operation).__module__.startswith("keras.src.layers.")
    return not own and is_opaque(operation) and weighted(operation) > 0


def _adds_in(call: Call) -> list[tuple[str, int]]:
    """Return the names and ranks of the adds in a layer's call. The layer is left as it was."""
    if call.node is None or any(t is None or t.shape is None for t in call.inputs):
        return []
    with same_name_counts(afresh=True), untouched(parts(call.operation)):
        return _adds_of(call.operation, call.node)


def _adds_of(layer: Any, node: Any) -> list[tuple[str, int]]:
    """Return the paths and ranks of the adds in a layer and in the layers in it, as in the call that a node records."""
    # Code that repeats a weight for each sample needs the size of the batch.
    shapes = [(tensor.shape[0] or BATCH, *tensor.shape[1:]) for tensor in node.input_tensors]
    inputs = [keras.Input(batch_shape=s, dtype=t.dtype) for s, t in zip(shapes, node.input_tensors, strict=True)]
    args, kwargs = arguments(node, {id(old): new for old, new in zip(node.input_tensors, inputs, strict=True)})
    found = []
    for inner in nodes_of(keras.Function(inputs, keras.tree.flatten(layer.call(*args, **kwargs)))):
        name = inner.operation.name
        if is_add(inner.operation) and len(inner.input_tensors) == 2:
            found.append((str(name), len(inner.outputs[0].shape)))
        elif _hides(inner.operation):
            found += [(f"{name}/{path}", rank) for path, rank in _adds_of(inner.operation, inner)]
    return found
