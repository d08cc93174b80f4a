"""Layers without weights that look at elements or one axis: GELU, SiLU, LeakyReLU, softmax, GLU, dropout."""

from collections.abc import Callable
from typing import Any

from benchmarks.porting.layer import Fault, Layer, Lazy, jax_port, keras_port, torch_port
from eca_multi.parity import normal

torch, nn, keras, jax, jnp = map(Lazy, ("torch", "torch.nn", "keras", "jax", "jax.numpy"))

WIDE = {"layout": "N L C", "inputs": {"x": normal("N L C", 2.0)}, "weights": {}, "config": {"L": 11, "C": 12}}


def _of(function: Callable[[Any], Any]) -> Any:
    """Return build(config) of a function of x in JAX."""
    return lambda config: lambda inputs, weights: function(inputs["x"])


def _activation(function: Callable[[Any], Any]) -> Any:
    """Return build(config) of a function of x as a Keras layer."""
    return lambda config: keras.layers.Activation(function)


GELU = Layer(
    "GELU",
    WIDE,
    {
        "torch": torch_port(lambda c: nn.GELU()),
        "keras": keras_port(_activation(lambda x: keras.ops.gelu(x, approximate=False))),
        "jax": jax_port(_of(lambda x: jax.nn.gelu(x, approximate=False))),
    },
    [
        Fault(
            "tanh in place of erf, the default of JAX and keras.ops",
            "y",
            "tanh GELU",
            {
                "keras": {"build": _activation(lambda x: keras.ops.gelu(x))},
                "jax": {"build": _of(lambda x: jax.nn.gelu(x))},
            },
        ),
        Fault(
            "sigmoid(1.702 x) x",
            "y",
            "sigmoid GELU",
            {"jax": {"build": _of(lambda x: x * jax.nn.sigmoid(1.702 * x))}},
        ),
    ],
)
SILU = Layer(
    "SiLU",
    WIDE,
    {
        "torch": torch_port(lambda c: nn.SiLU()),
        "keras": keras_port(_activation(lambda x: keras.ops.silu(x))),
        "jax": jax_port(_of(lambda x: jax.nn.silu(x))),
    },
    [
        Fault(
            "hard swish",
            "y",
            "hard swish",
            {"keras": {"build": _activation(lambda x: keras.ops.hard_silu(x))}},
        ),
        Fault(
            "gate without a gradient",
            "dx",
            "detached gate",
            {"jax": {"build": _of(lambda x: x * jax.lax.stop_gradient(jax.nn.sigmoid(x)))}},
        ),
    ],
)
LEAKY_RELU = Layer(
    "LeakyReLU",
    WIDE,
    {
        "torch": torch_port(lambda c: nn.LeakyReLU()),
        "keras": keras_port(lambda c: keras.layers.LeakyReLU(negative_slope=0.01)),
        "jax": jax_port(_of(lambda x: jax.nn.leaky_relu(x))),
    },
    [
        Fault("Keras's default slope", "y", "slope", {"keras": {"build": lambda c: keras.layers.LeakyReLU()}}),
    ],
)
SOFTMAX = Layer(
    "Softmax",
    WIDE,
    {
        "torch": torch_port(lambda c: nn.Softmax(-1)),
        "keras": keras_port(lambda c: keras.layers.Softmax()),
        "jax": jax_port(_of(lambda x: jax.nn.softmax(x))),
    },
    [
        Fault(
            "softmax along the sequence",
            "y",
            "wrong axis",
            {
                "keras": {"build": lambda c: keras.layers.Softmax(axis=1)},
                "jax": {"build": _of(lambda x: jax.nn.softmax(x, axis=1))},
            },
        ),
    ],
)


def _glu(x: Any, swapped: bool = False, interleaved: bool = False) -> Any:
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, axis=-1)
    return b * jax.nn.sigmoid(a) if swapped else a * jax.nn.sigmoid(b)


GLU = Layer(
    "GLU",
    {**WIDE, "outputs": {"y": "N L E"}, "config": {"L": 11, "C": 12, "E": 6}},
    {
        "torch": torch_port(lambda c: nn.GLU()),
        "jax": jax_port(_of(lambda x: _glu(x))),
    },
    [
        Fault("halves swapped", "y", "swapped halves", {"jax": {"build": _of(lambda x: _glu(x, swapped=True))}}),
        Fault(
            "halves interleaved",
            "y",
            "interleaved halves",
            {"jax": {"build": _of(lambda x: _glu(x, interleaved=True))}},
        ),
    ],
)
DROPOUT = Layer(
    "Dropout at inference",
    WIDE,
    {
        "torch": torch_port(lambda c: nn.Dropout(0.1)),
        "keras": keras_port(lambda c: keras.layers.Dropout(0.1, seed=0)),
    },
    [
        Fault(
            "dropout left on",
            "y",
            "dropout",
            {"torch": {"call": lambda self, layer, inputs, config: nn.functional.dropout(inputs["x"], 0.1, True)}},
        ),
        Fault(
            "the rate given as the share to keep",
            "y",
            "dropout",
            {"torch": {"call": lambda self, layer, inputs, config: 0.1 * inputs["x"]}},
        ),
    ],
)
