"""Convolutions: one to three dimensions, strided, dilated, depthwise, grouped and transposed."""

from collections.abc import Sequence
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
from eca_multi.parity import normal

torch, nn, keras, linen, nnx, lax = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "flax.nnx", "jax.lax"))

SPACE, OUT, KERNEL = "DHW", "RPQ", ("kd", "kh", "kw")  # axes of the input, of the output and of the kernel


def convolution(name: str, rank: int, config: Config, faults: Sequence[Fault], **options: Any) -> Layer:
    """Return a convolution with bias. `options` are torch's: stride, padding, dilation, groups."""
    stride, padding = options.get("stride", 1), options.get("padding", 0)
    dilation, groups = options.get("dilation", 1), options.get("groups", 1)
    space, out, kernel = SPACE[-rank:], OUT[-rank:], " ".join(KERNEL[-rank:])
    last = " ".join(f"N {space} {out} C O".replace(space, " ".join(space)).replace(out, " ".join(out)).split())
    size, both = (config["k"],) * rank, ((padding, padding),) * rank
    to_last = f"kernel: O I {kernel} -> {kernel} I O"
    flax = {
        "strides": (stride,) * rank,
        "padding": both,
        "kernel_dilation": (dilation,) * rank,
        "feature_group_count": groups,
    }

    def of_keras(c: Config) -> Any:
        layers, more = keras.layers, {"dilation_rate": dilation, "groups": groups, "name": "conv"}
        conv = getattr(layers, f"Conv{rank}D")(c["O"], c["k"], stride, **more)
        return keras.Sequential([getattr(layers, f"ZeroPadding{rank}D")(padding), conv])

    def of_jax(c: Config) -> Any:
        more = {"rhs_dilation": (dilation,) * rank, "feature_group_count": groups}
        return lambda inputs, weights: (
            lax.conv_general_dilated(inputs["x"], weights["kernel"], (stride,) * rank, both, **more)
            + weights["bias"].reshape(-1, *[1] * rank)
        )

    fan = (config["C"] // groups * config["k"] ** rank) ** -0.5
    return Layer(
        name,
        {
            "layout": " ".join(f"NC{space}"),
            "outputs": {"y": " ".join(f"NO{out}")},
            "weights": {"kernel": normal(f"O I {kernel}", fan), "bias": "O"},
            "config": {"I": config["C"] // groups, **dict(zip(KERNEL[-rank:], size, strict=True)), **config},
        },
        {
            "torch": torch_port(
                lambda c: getattr(nn, f"Conv{rank}d")(c["C"], c["O"], c["k"], **options),
                {"weight": "kernel", "bias": "bias"},
            ),
            "keras": keras_port(of_keras, {"conv/kernel": to_last, "conv/bias": "bias"}, layout=last),
            "linen": linen_port(
                lambda c: linen.Conv(c["O"], size, **flax, **dtypes(c)),
                {"params/kernel": to_last, "params/bias": "bias"},
                layout=last,
            ),
            "nnx": nnx_port(
                lambda c: nnx.Conv(c["C"], c["O"], size, rngs=rngs(), **flax, **dtypes(c)),
                {"kernel": to_last, "bias": "bias"},
                layout=last,
            ),
            "jax": jax_port(of_jax),
        },
        faults,
    )


def _jax(padding: Any, stride: int = 1, change: Any = lambda x, kernel, bias: (x, kernel, bias), **more: Any) -> Any:
    """Return build(config) of a convolution in JAX, in torch's layout, with its arguments changed."""

    def build(c: Config) -> Any:
        def call(inputs: Any, weights: Any) -> Any:
            x, kernel, bias = change(inputs["x"], weights["kernel"], weights["bias"])
            rank = x.ndim - 2
            y = lax.conv_general_dilated(x, kernel, (stride,) * rank, padding, **more)
            return y + bias.reshape(-1, *[1] * rank)

        return call

    return build


CONV1D = convolution(
    "Conv1d",
    1,
    {"C": 8, "O": 8, "k": 3, "W": 11, "Q": 11},
    [
        Fault(
            "kernel flipped, as scipy and NumPy convolve",
            "y",
            "flipped kernel",
            {"jax": {"build": _jax([(1, 1)], change=lambda x, kernel, bias: (x, kernel[..., ::-1], bias))}},
        ),
        Fault(
            "channels in and out swapped",
            "y",
            "transposed kernel",
            {
                "keras": {"weights": {"conv/kernel": "kernel: O I kw -> kw O I", "conv/bias": "bias"}},
                "nnx": {"weights": {"kernel": "kernel: O I kw -> kw O I", "bias": "bias"}},
            },
        ),
        Fault(
            "causal padding",
            "y",
            "shifted padding",
            {
                "keras": {
                    "build": lambda c: keras.Sequential(
                        [keras.layers.Conv1D(c["O"], c["k"], padding="causal", name="conv")]
                    )
                },
                "linen": {"build": lambda c: linen.Conv(c["O"], (c["k"],), padding="CAUSAL", **dtypes(c))},
            },
        ),
    ],
    padding=1,
)
CONV2D = convolution(
    "Conv2d, stride 2",
    2,
    {"C": 8, "O": 8, "k": 3, "H": 8, "W": 10, "P": 4, "Q": 5},
    [
        Fault(
            "SAME for padding=1",
            "y",
            "SAME padding",
            {
                "keras": {
                    "build": lambda c: keras.Sequential(
                        [keras.layers.Conv2D(c["O"], c["k"], 2, padding="same", name="conv")]
                    )
                },
                "linen": {"build": lambda c: linen.Conv(c["O"], (3, 3), (2, 2), padding="SAME", **dtypes(c))},
                "nnx": {
                    "build": lambda c: nnx.Conv(
                        c["C"], c["O"], (3, 3), (2, 2), padding="SAME", rngs=rngs(), **dtypes(c)
                    )
                },
            },
        ),
        Fault(
            "rows and columns of the kernel swapped",
            "y",
            "transposed kernel",
            {"keras": {"weights": {"conv/kernel": "kernel: O I kh kw -> kw kh I O", "conv/bias": "bias"}}},
        ),
        Fault(
            "bias left out",
            "y",
            "missing bias",
            {"jax": {"build": _jax([(1, 1)] * 2, 2, lambda x, kernel, bias: (x, kernel, 0 * bias))}},
        ),
        Fault(
            "kernel turned by 180 degrees",
            "y",
            "flipped kernel",
            {"jax": {"build": _jax([(1, 1)] * 2, 2, lambda x, kernel, bias: (x, kernel[..., ::-1, ::-1], bias))}},
        ),
    ],
    stride=2,
    padding=1,
)
DILATED = convolution(
    "Conv2d, dilation 2",
    2,
    {"C": 6, "O": 8, "k": 3, "H": 9, "W": 8, "P": 9, "Q": 8},
    [
        Fault(
            "dilation forgotten",
            "y",
            "dilation",
            {"jax": {"build": _jax([(1, 1)] * 2)}, "linen": {"build": lambda c: linen.Conv(8, (3, 3), **dtypes(c))}},
        ),
    ],
    padding=2,
    dilation=2,
)
CONV3D = convolution(
    "Conv3d",
    3,
    {"C": 4, "O": 6, "k": 3, "D": 4, "H": 5, "W": 6, "R": 4, "P": 5, "Q": 6},
    [
        Fault(
            "depth and width of the kernel swapped",
            "y",
            "transposed kernel",
            {
                "keras": {"weights": {"conv/kernel": "kernel: O I kd kh kw -> kw kh kd I O", "conv/bias": "bias"}},
                "linen": {"weights": {"params/kernel": "kernel: O I kd kh kw -> kw kh kd I O", "params/bias": "bias"}},
            },
        ),
    ],
    padding=1,
)
GROUPED = convolution(
    "Conv2d, 4 groups",
    2,
    {"C": 8, "O": 12, "k": 3, "H": 6, "W": 5, "P": 6, "Q": 5},
    [
        Fault(
            "groups interleaved",
            "y",
            "order of groups",
            {
                "jax": {
                    "build": _jax(
                        [(1, 1)] * 2,
                        change=lambda x, kernel, bias: (
                            x.reshape(len(x), 2, 4, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape),
                            kernel,
                            bias,
                        ),
                        feature_group_count=4,
                    )
                }
            },
        ),
    ],
    padding=1,
    groups=4,
)


_DEPTHWISE = "kernel: C kh kw -> kh kw C 1"
DEPTHWISE = Layer(
    "Depthwise Conv2d",
    {
        "layout": "N C H W",
        "weights": {"kernel": normal("C kh kw", 1 / 3), "bias": "C"},
        "config": {"C": 8, "kh": 3, "kw": 3},
    },
    {
        "torch": torch_port(
            lambda c: nn.Conv2d(c["C"], c["C"], 3, padding=1, groups=c["C"]),
            {"weight": "kernel: C kh kw -> C 1 kh kw", "bias": "bias"},
        ),
        "keras": keras_port(
            lambda c: keras.layers.DepthwiseConv2D(3, padding="same"),
            {"kernel": _DEPTHWISE, "bias": "bias"},
            layout="N H W C",
        ),
        "linen": linen_port(
            lambda c: linen.Conv(c["C"], (3, 3), feature_group_count=c["C"], **dtypes(c)),
            {"params/kernel": "kernel: C kh kw -> kh kw 1 C", "params/bias": "bias"},
            layout="N H W C",
        ),
        "nnx": nnx_port(
            lambda c: nnx.Conv(c["C"], c["C"], (3, 3), feature_group_count=c["C"], rngs=rngs(), **dtypes(c)),
            {"kernel": "kernel: C kh kw -> kh kw 1 C", "bias": "bias"},
            layout="N H W C",
        ),
    },
    [
        Fault(
            "rows and columns of the kernel swapped",
            "y",
            "transposed kernel",
            {
                "keras": {"weights": {"kernel": "kernel: C kh kw -> kw kh C 1", "bias": "bias"}},
                "nnx": {"weights": {"kernel": "kernel: C kh kw -> kw kh 1 C", "bias": "bias"}},
            },
        ),
    ],
)

_TRANSPOSED = "kernel: C O kh kw -> kh kw O C"
_TRANSPOSED_LAYOUT = "N H W P Q C O"


def _flax_transposed(c: Config, transpose: bool = True) -> dict[str, Any]:
    return {"strides": (2, 2), "padding": "SAME", "transpose_kernel": transpose, **dtypes(c)}


TRANSPOSED = Layer(
    "ConvTranspose2d, stride 2",
    {
        "layout": "N C H W",
        "outputs": {"y": "N O P Q"},
        "weights": {"kernel": normal("C O kh kw", 0.18), "bias": "O"},
        "config": {"C": 8, "O": 8, "kh": 4, "kw": 4, "H": 4, "W": 5, "P": 8, "Q": 10},
    },
    {
        "torch": torch_port(
            lambda c: nn.ConvTranspose2d(c["C"], c["O"], 4, 2, padding=1), {"weight": "kernel", "bias": "bias"}
        ),
        "keras": keras_port(
            lambda c: keras.layers.Conv2DTranspose(c["O"], 4, 2, padding="same"),
            {"kernel": _TRANSPOSED, "bias": "bias"},
            layout=_TRANSPOSED_LAYOUT,
        ),
        "linen": linen_port(
            lambda c: linen.ConvTranspose(c["O"], (4, 4), **_flax_transposed(c)),
            {"params/kernel": _TRANSPOSED, "params/bias": "bias"},
            layout=_TRANSPOSED_LAYOUT,
        ),
        "nnx": nnx_port(
            lambda c: nnx.ConvTranspose(c["C"], c["O"], (4, 4), rngs=rngs(), **_flax_transposed(c)),
            {"kernel": _TRANSPOSED, "bias": "bias"},
            layout=_TRANSPOSED_LAYOUT,
        ),
    },
    [
        Fault(
            "kernel not flipped, as Flax's default wants it",
            "y",
            "flipped kernel",
            {
                "linen": {
                    "build": lambda c: linen.ConvTranspose(c["O"], (4, 4), **_flax_transposed(c, False)),
                    "weights": {"params/kernel": "kernel: C O kh kw -> kh kw C O", "params/bias": "bias"},
                },
                "nnx": {
                    "build": lambda c: nnx.ConvTranspose(
                        c["C"], c["O"], (4, 4), rngs=rngs(), **_flax_transposed(c, False)
                    ),
                    "weights": {"kernel": "kernel: C O kh kw -> kh kw C O", "bias": "bias"},
                },
            },
        ),
        Fault(
            "channels in and out swapped",
            "y",
            "transposed kernel",
            {"keras": {"weights": {"kernel": "kernel: C O kh kw -> kh kw C O", "bias": "bias"}}},
        ),
    ],
)
