"""A classifier of sequences with ECA in Keras 3: two convolutions, each followed by ECA, for any length.

Trains on scikit-learn's digits, each image read as a sequence of its 8 rows with 8 values each, and prints the accuracy
on images that it has not seen. Run it: `python examples/conv1d_classifier_keras.py`.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from eca_multi.keras import ECA


def conv1d_classifier(channels: int = 3, classes: int = 10) -> keras.Model:
    """x: (N, L, channels), of any length L >= 1. Output: logits (N, classes)."""
    return keras.Sequential(
        [
            keras.Input((None, channels)),
            layers.Conv1D(64, 3, padding="same", name="conv1"),
            ECA(name="eca1"),
            layers.ReLU(),
            layers.Conv1D(128, 3, padding="same", name="conv2"),
            ECA(name="eca2"),
            layers.ReLU(),
            layers.GlobalMaxPooling1D(),  # the largest value along the sequence fits every length; a flatten fits one
            layers.Dense(classes, name="dense"),
        ]
    )


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) to train on and to test on; images as (N, 8, 8), the columns as channels."""
    data = load_digits()
    x = (data.images / 16).astype("float32")
    y = data.target
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int = 10) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, verbose=0).argmax(1) == y).mean())


def main() -> None:
    keras.utils.set_random_seed(0)
    (x, y), (test_x, test_y) = digits()
    model = conv1d_classifier(channels=8)
    train(model, x, y)
    print(f"accuracy on unseen digits: {accuracy(model, test_x, test_y):.3f}")
    longer = test_x.repeat(3, axis=1)
    print(f"a sequence three times as long: {tuple(longer.shape)} -> {tuple(model(longer).shape)}")


if __name__ == "__main__":
    main()
