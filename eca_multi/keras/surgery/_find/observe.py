"""What a Keras network returns for inputs, and what stands at some of its places on the way."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import keras
import numpy as np
from keras import ops

Seen = Mapping[str, list[np.ndarray]]  # what an operation returned, call by call, by its path


def run(model: Any, example_inputs: Any) -> list[np.ndarray]:
    """Return a built model's outputs in inference, as a flat list."""
    if isinstance(example_inputs, tuple | list):  # a model takes its inputs as one argument
        example_inputs = example_inputs[0] if len(example_inputs) == 1 else list(example_inputs)
    outputs = model(example_inputs, training=False)
    return [np.array(ops.convert_to_numpy(y)) for y in keras.tree.flatten(outputs)]


@contextmanager
def recorded(operations: Mapping[str, Any]) -> Iterator[Seen]:
    """Give a record of what operations return; none of those that run while a function is traced."""
    seen: dict[str, list[np.ndarray]] = {path: [] for path in operations}
    with ExitStack() as stack:
        for path, operation in operations.items():
            _record(operation, seen[path])
            stack.callback(delattr, operation, "call")
        yield seen


def _record(operation: Any, seen: list[np.ndarray]) -> None:
    call = operation.call

    def recording(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        with suppress(Exception):  # a tensor without values
            seen.append(as_numbers(keras.tree.flatten(outputs)[0]))
        return outputs

    object.__setattr__(operation, "call", recording)


def as_numbers(tensor: Any) -> np.ndarray:
    """Return a copy in a dtype that NumPy has."""
    is_half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32") if is_half else tensor))
