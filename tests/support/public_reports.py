"""keras-team/keras 20713: a small convolutional network, trained with Keras on each backend and in PyTorch."""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

import numpy as np

from eca_multi.parity import Case, KerasAdapter, Spec, TorchAdapter, Training, integers, normal


class Torch(TorchAdapter):
    layout = "N C H W"
    weights = {
        "conv1.weight": "k1: kh kw i o -> o i kh kw",
        "conv2.weight": "k2: kh kw i o -> o i kh kw",
        "out.weight": "w: f o -> o f",
    }

    def build(self, config):
        import torch

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1, bias=False)
                self.conv2 = torch.nn.Conv2d(8, 16, 3, padding=1, bias=False)
                self.out = torch.nn.Linear(64, 10, bias=False)

            def forward(self, x, labels):
                for conv in (self.conv1, self.conv2):
                    x = torch.nn.functional.max_pool2d(conv(x).relu(), 2)
                logits = self.out(x.permute(0, 2, 3, 1).flatten(1))
                return logits, torch.nn.functional.cross_entropy(logits, labels.long())

        return Net()


class Keras(KerasAdapter):
    layout = "N H W C"
    weights = {"conv1/kernel": "k1", "conv2/kernel": "k2", "out/kernel": "w"}

    def build(self, config):
        from keras import layers, losses, ops

        class Net(layers.Layer):
            def __init__(self):
                super().__init__()
                options = {"padding": "same", "activation": "relu", "use_bias": False}
                self.conv1 = layers.Conv2D(8, 3, name="conv1", **options)
                self.conv2 = layers.Conv2D(16, 3, name="conv2", **options)
                self.pool, self.flatten = layers.MaxPooling2D(2), layers.Flatten()
                self.out = layers.Dense(10, use_bias=False, name="out")

            def call(self, x, labels):
                for conv in (self.conv1, self.conv2):
                    x = self.pool(conv(x))
                logits = self.out(self.flatten(x))
                return logits, ops.mean(losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

        return Net()

    def call(self, layer, inputs, config):
        return layer(inputs["x"], inputs["labels"])


class Stalled(Keras):
    """The control: the second convolution gets no gradient, so that it does not train."""

    def build(self, config):
        from keras import ops

        layer = super().build(config)
        conv = layer.conv2.call
        layer.conv2.call = lambda x: ops.stop_gradient(conv(x))
        return layer


def _digits(rng, config, steps):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    chosen = rng.integers(len(labels), size=(steps, config["N"]))
    x = images[chosen].reshape(steps, config["N"], 8, 8, 1) / 16
    return {"x": x, "labels": labels[chosen].astype(np.int32)}


SPEC = Spec(
    "The network of keras-team/keras 20713",
    layout="N H W C",
    inputs={"x": "N H W C", "labels": integers("N", 0, 10)},
    weights={"k1": normal("3 3 C A", 0.4), "k2": normal("3 3 A B", 0.15), "w": normal("F K", 0.15)},
    outputs={"logits": "N K", "loss": ""},
    runners={"torch": Torch, "keras": Keras, "keras-torch-stalled": Stalled},
    reference=Torch,
    config={"N": 32, "C": 1, "H": 8, "W": 8, "A": 8, "B": 16, "F": 64, "K": 10},
    cases=(Case("digits", draw=lambda rng, config: {n: a[0] for n, a in _digits(rng, config, 1).items()}),),
    training=Training(steps=10, optimizer="adam", rate=1e-3, batches=_digits, loss="loss"),
)
