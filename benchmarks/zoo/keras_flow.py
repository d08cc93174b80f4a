"""The operations of a Keras network's run, as TensorFlow traces them, told to a `Flow`."""

import re
from typing import Any

import keras
import tensorflow as tf

from benchmarks.zoo.flow import ADD, MIX, MUL, NOTHING, OTHER, Add, Flow, Value

KINDS = {"Add": ADD, "AddV2": ADD, "AddN": ADD, "Mul": MUL} | dict.fromkeys(
    ("MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"), MIX
)
CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv")


def adds_of(model: Any, inputs: Any) -> list[Add]:
    """Return the residual adds of one run as in evaluation, in the order in which they run."""
    arrays = [tf.convert_to_tensor(array) for array in keras.tree.flatten(inputs)]
    traced = tf.function(lambda *arrays: model(keras.tree.pack_sequence_as(inputs, arrays), training=False))
    concrete = traced.get_concrete_function(*[tf.TensorSpec(array.shape, array.dtype) for array in arrays])
    graph = concrete.graph
    kernels = {id(w.value.handle): w.path for w in model.weights if _is_eca(w.path)}
    at: dict[str, Value] = {}
    for outside, inside in graph.captures:
        path = kernels.get(id(outside))
        at[inside.name] = Value(opened=frozenset({path})) if path else NOTHING
    captured = set(at)
    for tensor in graph.inputs:
        if tensor.name not in captured:
            at[tensor.name] = Value(from_input=True)
    flow = Flow()
    for op in graph.get_operations():
        if not op.inputs:
            continue
        read = [at.get(tensor.name, NOTHING) for tensor in op.inputs]
        convolves = op.type in CONVOLUTIONS
        kind = MIX if convolves else KINDS.get(op.type, OTHER)
        shapes = [tuple(tensor.shape) if tensor.shape.rank is not None else () for tensor in op.inputs]
        value = flow.step(kind, read, shapes=shapes, conv=convolves, place=_place(op.name))
        for tensor in op.outputs:
            at.setdefault(tensor.name, value)
    return flow.adds


def _is_eca(path: str) -> bool:
    return path.endswith("/kernel") and "eca" in path.split("/")[-2].lower()


def _place(name: str) -> str:
    """The path of the layer in which an operation runs: its scopes without the model's, and without their numbers.

    TensorFlow gives a scope a number of its own behind the layer's name. An operation of `keras.ops` in the model's
    graph has a scope too, which is its name there.
    """
    scopes = [re.sub(r"_\d+$", "", scope) for scope in name.split("/")[:-1]]
    return "/".join(scopes[1:])
