"""What the examination of a Keras network needs of JAX itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras


def gradients(loss: Callable[[], Any], weights: Sequence[Any]) -> list[Any]:
    """The gradient of a loss with respect to each weight."""

    def of(values: Sequence[Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
            return loss()

    return jax.grad(of)([weight.value for weight in weights])
