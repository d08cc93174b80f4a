"""A classifier of sequences with ECA in Flax linen: two convolutions, each followed by ECA, for any length.

Trains on scikit-learn's digits, each image read as a sequence of its 8 rows with 8 values each, and prints the accuracy
on images that it has not seen. Run it: `python examples/conv1d_classifier_linen.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from eca_multi.flax.linen import ECA


class Conv1dClassifier(nn.Module):
    """x: (N, L, channels), of any length L >= 1. Output: logits (N, classes)."""

    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(ECA(name="eca1")(nn.Conv(64, (3,), name="conv1")(x)))
        x = nn.relu(ECA(name="eca2")(nn.Conv(128, (3,), name="conv2")(x)))
        # The largest value along the sequence fits every length; a flatten fits one.
        return nn.Dense(self.classes, name="dense")(x.max(1))


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) to train on and to test on; images as (N, 8, 8), the columns as channels."""
    data = load_digits()
    x = (data.images / 16).astype("float32")
    y = data.target
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def train(model: nn.Module, variables: Any, x: np.ndarray, y: np.ndarray, epochs: int = 10) -> Any:
    optimizer = optax.adam(3e-3)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(variables: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(variables, x), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in np.split(order[: len(x) // 32 * 32], len(x) // 32):
            variables, state = step(variables, state, x[batch], y[batch])
    return variables


def accuracy(model: nn.Module, variables: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.apply(variables, x).argmax(1) == y).mean())


def main() -> None:
    (x, y), (test_x, test_y) = digits()
    model = Conv1dClassifier()
    variables = train(model, model.init(jax.random.key(0), jnp.asarray(x[:1])), x, y)
    print(f"accuracy on unseen digits: {accuracy(model, variables, test_x, test_y):.3f}")
    longer = test_x.repeat(3, axis=1)
    print(f"a sequence three times as long: {longer.shape} -> {model.apply(variables, longer).shape}")


if __name__ == "__main__":
    main()
