"""A classifier of sequences with ECA in Flax nnx: two convolutions, each followed by ECA, for any length.

Trains on scikit-learn's digits, each image read as a sequence of its 8 rows with 8 values each, and prints the accuracy
on images that it has not seen. Run it: `python examples/conv1d_classifier_nnx.py`.
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from eca_multi.flax.nnx import ECA


class Conv1dClassifier(nnx.Module):
    """x: (N, L, channels), of any length L >= 1. Output: logits (N, classes)."""

    def __init__(self, channels: int = 3, classes: int = 10, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(channels, 64, (3,), rngs=rngs)
        self.eca1 = ECA(64, rngs=rngs)
        self.conv2 = nnx.Conv(64, 128, (3,), rngs=rngs)
        self.eca2 = ECA(128, rngs=rngs)
        self.dense = nnx.Linear(128, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.eca1(self.conv1(x)))
        x = nnx.relu(self.eca2(self.conv2(x)))
        return self.dense(x.max(1))  # the largest value along the sequence fits every length; a flatten fits one


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) to train on and to test on; images as (N, 8, 8), the columns as channels."""
    data = load_digits()
    x = (data.images / 16).astype("float32")
    y = data.target
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
    def loss(model: nnx.Module) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def train(model: nnx.Module, x: np.ndarray, y: np.ndarray, epochs: int = 10) -> None:
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in np.split(order[: len(x) // 32 * 32], len(x) // 32):
            step(model, optimizer, x[batch], y[batch])


def accuracy(model: nnx.Module, x: np.ndarray, y: np.ndarray) -> float:
    return float((model(x).argmax(1) == y).mean())


def main() -> None:
    (x, y), (test_x, test_y) = digits()
    model = Conv1dClassifier(channels=8, rngs=nnx.Rngs(0))
    train(model, x, y)
    print(f"accuracy on unseen digits: {accuracy(model, test_x, test_y):.3f}")
    longer = test_x.repeat(3, axis=1)
    print(f"a sequence three times as long: {longer.shape} -> {model(longer).shape}")


if __name__ == "__main__":
    main()
