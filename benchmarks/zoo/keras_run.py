"""Run a Keras network on its inputs, without ECA's package."""

from typing import Any

import keras
import numpy as np


def run(model: Any, inputs: Any, training: bool = False) -> list[np.ndarray]:
    """Return all arrays of the outputs; random numbers are the same in each run."""
    keras.utils.set_random_seed(1)
    made = keras.tree.flatten(model(inputs, training=training))
    return [keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")) for tensor in made]
