"""What the examination of a Keras network needs of TensorFlow itself."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def gradients(loss: Callable[[], Any], weights: Sequence[Any]) -> list[Any]:
    """The gradient of a loss with respect to each weight, None where there is none."""
    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, [weight.value for weight in weights])
    return [None if g is None else tf.convert_to_tensor(g) for g in found]


def served(model: Any, inputs: Any, folder: str) -> list[np.ndarray]:
    """What the program computes that `model.export` writes."""
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)  # held, for its functions do not hold its variables
    made = loaded.serve(keras.tree.map_structure(tf.convert_to_tensor, inputs))
    return [np.asarray(t, "float32") for t in keras.tree.flatten(made)]
