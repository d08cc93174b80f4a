"""Normalisations: batch, layer, group, instance and root mean square."""

from collections.abc import Callable
from typing import Any

from benchmarks.porting.layer import (
    Config,
    Fault,
    Layer,
    Lazy,
    dtypes,
    jax_port,
    keras_port,
    linen_port,
    nnx_port,
    rngs,
    torch_port,
)
from eca_multi.parity import Case, normal, uniform
from eca_multi.parity.specs import batch_norm

torch, nn, keras, linen, nnx, jax, jnp = map(
    Lazy, ("torch", "torch.nn", "keras", "flax.linen", "flax.nnx", "jax", "jax.numpy")
)

QUIET = "small values, beside whose variance eps counts"


def _quiet(axes: str, scale: float = 0.01) -> Callable[[Any, Config], Any]:
    return lambda rng, config: {"x": scale * rng.normal(size=[config[axis] for axis in axes])}


def _cases(axes: str) -> tuple[Case, ...]:
    return Case("usual", "values as they occur"), Case("quiet", QUIET, draw=_quiet(axes))


def _port(base: Any, **changes: Any) -> Any:
    return type("Port", (base,), changes)


BATCH_NORM = Layer(
    "BatchNorm2d",
    {
        "layout": "N C H W",
        "weights": {"scale": normal("C", 0.5, 1.0), "bias": "C"},
        "state": {"mean": "C", "var": uniform("C", 0.5, 2.0)},
        "config": {"C": 8, "training": False},
        "cases": (
            Case("inference", "by the running statistics"),
            Case("training", "by those of the batch", {"training": True, "H": 3, "W": 4}),
            Case("quiet", QUIET, {"training": True}, draw=_quiet("NCHW", 0.02)),
        ),
    },
    {
        "torch": _port(batch_norm.Torch),
        "keras": _port(batch_norm.Keras),
        "linen": _port(batch_norm.Linen),
        "nnx": _port(batch_norm.Nnx),
    },
    [
        Fault(
            "Keras's default eps",
            "y",
            "eps",
            {"keras": {"settings": {**batch_norm.Keras.settings, "epsilon": 1e-3}}},
        ),
        Fault(
            "torch's momentum in place of its complement",
            "new_mean",
            "momentum",
            {
                "keras": {"settings": {**batch_norm.Keras.settings, "momentum": 0.1}},
                "linen": {"settings": {**batch_norm.Linen.settings, "momentum": 0.1}},
                "nnx": {"settings": {**batch_norm.Nnx.settings, "momentum": 0.1}},
            },
        ),
        Fault(
            "running variance over n - 1",
            "new_var",
            "n - 1",
            {"torch": {"build": lambda c: nn.BatchNorm2d(c["C"])}},
        ),
        Fault(
            "statistics of the batch at inference",
            "y",
            "training mode",
            {
                "torch": {"call": lambda self, layer, inputs, config: layer.train()(inputs["x"])},
                "keras": {"call": lambda self, layer, inputs, config: layer(inputs["x"], training=True)},
            },
        ),
    ],
)


def layer_norm(axis: int = -1, ddof: int = 0, center: bool = True, bias: bool = True) -> Callable[[Config], Any]:
    """Return build(config) of a layer normalisation in JAX as people write it."""

    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"].astype(jnp.float32)
        mean = x.mean(axis, keepdims=True)
        y = (x - mean if center else x) / jnp.sqrt(x.var(axis, keepdims=True, ddof=ddof) + 1e-5)
        y = y * weights["scale"] + (weights["bias"] if bias else 0)
        return y.astype(inputs["x"].dtype)

    return lambda config: call


LAYER_NORM = Layer(
    "LayerNorm",
    {
        "layout": "N L C",
        "weights": {"scale": normal("C", 0.5, 1.0), "bias": "C"},
        "config": {"C": 20, "L": 11},
        "cases": _cases("NLC"),
    },
    {
        "torch": torch_port(lambda c: nn.LayerNorm(c["C"]), {"weight": "scale", "bias": "bias"}),
        "keras": keras_port(
            lambda c: keras.layers.LayerNormalization(epsilon=1e-5), {"gamma": "scale", "beta": "bias"}
        ),
        "linen": linen_port(
            lambda c: linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, **dtypes(c)),
            {"params/scale": "scale", "params/bias": "bias"},
        ),
        "nnx": nnx_port(
            lambda c: nnx.LayerNorm(c["C"], epsilon=1e-5, use_fast_variance=False, rngs=rngs(), **dtypes(c)),
            {"scale": "scale", "bias": "bias"},
        ),
        "jax": jax_port(layer_norm()),
    },
    [
        Fault(
            "the framework's default eps",
            "y",
            "eps",
            {
                "keras": {"build": lambda c: keras.layers.LayerNormalization()},
                "linen": {"build": lambda c: linen.LayerNorm(use_fast_variance=False, **dtypes(c))},
                "nnx": {"build": lambda c: nnx.LayerNorm(c["C"], use_fast_variance=False, rngs=rngs(), **dtypes(c))},
            },
        ),
        Fault("normalised along the sequence", "y", "wrong axis", {"jax": {"build": layer_norm(axis=1)}}),
        Fault("variance over n - 1", "y", "n - 1", {"jax": {"build": layer_norm(ddof=1)}}),
        Fault("bias left out", "y", "missing bias", {"jax": {"build": layer_norm(bias=False)}}),
        Fault(
            "scale and bias swapped",
            "y",
            "swapped weights",
            {"keras": {"weights": {"gamma": "bias", "beta": "scale"}}},
        ),
    ],
)


def rms_norm(eps: float = 1e-6, inside: bool = True, center: bool = False, plus: float = 0.0) -> Callable[..., Any]:
    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"].astype(jnp.float32)
        if center:
            x = x - x.mean(-1, keepdims=True)
        square = (x * x).mean(-1, keepdims=True)
        root = jnp.sqrt(square + eps) if inside else jnp.sqrt(square) + eps
        return (x / root * (plus + weights["scale"])).astype(inputs["x"].dtype)

    return lambda config: call


RMS_NORM = Layer(
    "RMSNorm",
    {
        "layout": "N L C",
        "weights": {"scale": normal("C", 0.5, 1.0)},
        "config": {"C": 20, "L": 11},
        "cases": _cases("NLC"),
    },
    {
        "torch": torch_port(lambda c: nn.RMSNorm(c["C"], eps=1e-6), {"weight": "scale"}),
        "keras": keras_port(lambda c: keras.layers.RMSNormalization(epsilon=1e-6), {"scale": "scale"}),
        "linen": linen_port(lambda c: linen.RMSNorm(epsilon=1e-6, **dtypes(c)), {"params/scale": "scale"}),
        "nnx": nnx_port(lambda c: nnx.RMSNorm(c["C"], epsilon=1e-6, rngs=rngs(), **dtypes(c)), {"scale": "scale"}),
        "jax": jax_port(rms_norm()),
    },
    [
        Fault("eps of a LayerNorm", "y", "eps", {"jax": {"build": rms_norm(eps=1e-5)}}),
        Fault("eps outside of the root", "y", "eps", {"jax": {"build": rms_norm(eps=1e-3, inside=False)}}),
        Fault("mean subtracted", "y", "mean subtracted", {"jax": {"build": rms_norm(center=True)}}),
        Fault("scale as 1 + scale", "y", "1 + scale", {"jax": {"build": rms_norm(plus=1.0)}}),
    ],
)


def group_norm(eps: float = 1e-5, interleaved: bool = False, groups: int = 4) -> Callable[[Config], Any]:
    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"].astype(jnp.float32)
        n, c, *space = x.shape
        if interleaved:
            parts, axes = x.reshape(n, c // groups, groups, *space), (1, 3, 4)
        else:
            parts, axes = x.reshape(n, groups, c // groups, *space), (2, 3, 4)
        mean, var = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
        y = ((parts - mean) / jnp.sqrt(var + eps)).reshape(x.shape)
        y = y * weights["scale"][:, None, None] + weights["bias"][:, None, None]
        return y.astype(inputs["x"].dtype)

    return lambda config: call


GROUP_NORM = Layer(
    "GroupNorm",
    {
        "layout": "N C H W",
        "weights": {"scale": normal("C", 0.5, 1.0), "bias": "C"},
        "config": {"C": 16},
        "cases": _cases("NCHW"),
    },
    {
        "torch": torch_port(lambda c: nn.GroupNorm(4, c["C"]), {"weight": "scale", "bias": "bias"}),
        "keras": keras_port(
            lambda c: keras.layers.GroupNormalization(4, epsilon=1e-5),
            {"gamma": "scale", "beta": "bias"},
            layout="N H W C",
        ),
        "linen": linen_port(
            lambda c: linen.GroupNorm(4, epsilon=1e-5, use_fast_variance=False, **dtypes(c)),
            {"params/scale": "scale", "params/bias": "bias"},
            layout="N H W C",
        ),
        "nnx": nnx_port(
            lambda c: nnx.GroupNorm(c["C"], 4, epsilon=1e-5, use_fast_variance=False, rngs=rngs(), **dtypes(c)),
            {"scale": "scale", "bias": "bias"},
            layout="N H W C",
        ),
        "jax": jax_port(group_norm()),
    },
    [
        Fault(
            "the framework's default eps",
            "y",
            "eps",
            {
                "keras": {"build": lambda c: keras.layers.GroupNormalization(4)},
                "linen": {"build": lambda c: linen.GroupNorm(4, use_fast_variance=False, **dtypes(c))},
            },
        ),
        Fault("groups interleaved", "y", "order of groups", {"jax": {"build": group_norm(interleaved=True)}}),
        Fault(
            "channels of a group given as the number of groups",
            "y",
            "number of groups",
            {"keras": {"build": lambda c: keras.layers.GroupNormalization(8, epsilon=1e-5)}},
        ),
    ],
)
INSTANCE_NORM = Layer(
    "InstanceNorm2d",
    {
        "layout": "N C H W",
        "weights": {"scale": normal("C", 0.5, 1.0), "bias": "C"},
        "config": {"C": 6},
        "cases": _cases("NCHW"),
    },
    {
        "torch": torch_port(lambda c: nn.InstanceNorm2d(c["C"], affine=True), {"weight": "scale", "bias": "bias"}),
        "keras": keras_port(
            lambda c: keras.layers.GroupNormalization(-1, epsilon=1e-5),
            {"gamma": "scale", "beta": "bias"},
            layout="N H W C",
        ),
        "linen": linen_port(
            lambda c: linen.InstanceNorm(epsilon=1e-5, use_fast_variance=False, **dtypes(c)),
            {"params/scale": "scale", "params/bias": "bias"},
            layout="N H W C",
        ),
    },
    [
        Fault(
            "Flax's default eps",
            "y",
            "eps",
            {"linen": {"build": lambda c: linen.InstanceNorm(use_fast_variance=False, **dtypes(c))}},
        ),
        Fault(
            "LayerNorm in its place",
            "y",
            "wrong axis",
            {"keras": {"build": lambda c: keras.layers.GroupNormalization(1, epsilon=1e-5)}},
        ),
    ],
)
