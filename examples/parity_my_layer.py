"""A layer of your own in three frameworks: y = (x w) * sigmoid(x v), over tokens of shape (N, L, C).

Compare them with `eca-multi parity examples/parity_my_layer.py`.
"""

from eca_multi.parity import Case, JaxAdapter, KerasAdapter, Spec, TorchAdapter, Training, normal, tap


class Torch(TorchAdapter):
    weights = {"value.weight": "w: C O -> O C", "gate.weight": "v: C O -> O C"}  # nn.Linear keeps (out, in)

    def build(self, config):
        import torch

        class GatedLinear(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.value = torch.nn.Linear(config["C"], config["O"], bias=False)
                self.gate = torch.nn.Linear(config["C"], config["O"], bias=False)

            def forward(self, x):
                return self.value(x) * tap("gate", torch.sigmoid(self.gate(x)))

        return GatedLinear()


class Keras(KerasAdapter):
    weights = {"value/kernel": "w", "gate/kernel": "v"}

    def build(self, config):
        from keras import layers

        class GatedLinear(layers.Layer):
            def __init__(self):
                super().__init__()
                self.value = layers.Dense(config["O"], use_bias=False, name="value")
                self.gate = layers.Dense(config["O"], "sigmoid", use_bias=False, name="gate")

            def call(self, x):
                return self.value(x) * tap("gate", self.gate(x))

        return GatedLinear()


class Jax(JaxAdapter):
    def build(self, config):
        import jax

        def gated_linear(inputs, weights):
            x = inputs["x"]
            w, v = (weights[name].astype(x.dtype) for name in ("w", "v"))
            return (x @ w) * tap("gate", jax.nn.sigmoid(x @ v))

        return gated_linear


SPEC = Spec(
    "GatedLinear",
    layout="N L C",
    weights={"w": normal("C O", 0.3), "v": normal("C O", 0.3)},
    outputs={"y": "N L O"},
    runners={"torch": Torch, "keras": Keras, "jax": Jax},
    reference="torch",
    config={"C": 12, "O": 8},
    taps=("gate",),
    training=Training(rate=5e-3),  # a larger step would hide the weights of bfloat16 behind its rounding
    cases=(
        Case("tokens", "two sequences of 11 tokens"),
        Case("long", "sums over 1531 tokens in the gradients of the weights", {"L": 1531}),
    ),
)
