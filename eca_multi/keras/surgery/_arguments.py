"""`example_inputs` in the form in which a model is called."""

from typing import Any

import keras
import numpy as np
from keras import ops


def as_call(model: Any, example_inputs: Any) -> Any:
    """One array, a tuple of positional inputs, or a dict of keywords, as the model's one argument."""
    if isinstance(example_inputs, dict):
        return example_inputs
    if isinstance(example_inputs, tuple | list):
        return example_inputs[0] if len(example_inputs) == 1 else list(example_inputs)
    return example_inputs


def run(model: Any, example_inputs: Any) -> list[np.ndarray]:
    """The model's outputs in inference, as a flat list."""
    outputs = model(as_call(model, example_inputs), training=False)
    return [np.array(ops.convert_to_numpy(y)) for y in keras.tree.flatten(outputs)]


def is_built(model: Any) -> bool:
    """Whether a model has a graph: a Sequential without an input has none yet."""
    return not isinstance(model, keras.Sequential) or model._functional is not None


def input_shape(example_inputs: Any) -> tuple[int | None, ...]:
    """Of the one input of a Sequential, for a batch of any size."""
    (x,) = keras.tree.flatten(example_inputs)
    return (None, *np.shape(x)[1:])
