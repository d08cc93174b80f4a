"""Every private name of TensorFlow that the harness uses, each with its reason and the public way that was tried.

A test resolves each name of the table, and so says which name a new version of TensorFlow has lost.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorflow.python.eager.context import context
from tensorflow.python.eager.execute import quick_execute
from tensorflow.python.framework.op_callbacks import add_op_callback, remove_op_callback

__all__ = ["add_op_callback", "again", "in_memory", "remove_op_callback"]
PRIVATE_NAMES = {
    "tensorflow.python.framework.op_callbacks.add_op_callback": (
        "Adds noise after each eager operation, of a tape's backward pass too. tf.experimental.dispatch_for_api sees "
        "the calls of public functions alone, and a graph would hide the steps of loops."
    ),
    "tensorflow.python.framework.op_callbacks.remove_op_callback": (
        "Ends what add_op_callback began; no public name ends it."
    ),
    "tensorflow.python.eager.execute.quick_execute": (
        "Runs an operation on other inputs with the attributes that a callback got. tf.raw_ops wants the names of the "
        "inputs, and attributes without the types that it infers."
    ),
    "tensorflow.python.eager.context.context": "What quick_execute takes for its context; no public name returns it.",
}


def again(name: str, inputs: Sequence[Any], attributes: Sequence[Any], results: int) -> Any:
    """Run an operation on other inputs, and return its first result."""
    return quick_execute(name, results, list(inputs), tuple(attributes), context())[0]


def in_memory(tensor: Any) -> np.ndarray:
    """Return an array that writes where an eager tensor of the CPU lies, in float64 or float32.

    TensorFlow's callbacks cannot replace a result. NumPy's view of a tensor is read-only: tensors may share memory, so
    that the caller must write into results that have been computed just now, and nothing else.
    """
    view = np.asarray(memoryview(tensor))
    kind = ctypes.c_double if view.dtype == np.float64 else ctypes.c_float
    return np.ctypeslib.as_array((kind * view.size).from_address(view.ctypes.data)).reshape(view.shape)
