"""Layers over windows of an image: pooling, resizing, pixel shuffle."""

from collections.abc import Callable
from typing import Any

from benchmarks.porting.layer import Config, Fault, Layer, Lazy, jax_port, keras_port, torch_port

torch, nn, keras, linen, jax, jnp = map(Lazy, ("torch", "torch.nn", "keras", "flax.linen", "jax", "jax.numpy"))

LAST = "N H W P Q C E"  # channels last, for inputs N C H W and outputs N C P Q


def _images(**sizes: int) -> dict[str, Any]:
    return {"layout": "N C H W", "outputs": {"y": "N C P Q"}, "weights": {}, "config": {"C": 6, **sizes}}


def _pool(padding: Any, pool: str = "max_pool", **options: Any) -> Callable[[Config], Any]:
    return lambda config: lambda inputs, weights: getattr(linen, pool)(inputs["x"], (3, 3), (2, 2), padding, **options)


def _keras_pool(layer: str, padding: str, before: str = "") -> Callable[[Config], Any]:
    def build(config: Config) -> Any:
        pool = getattr(keras.layers, layer)(3, 2, padding=padding)
        if before == "zeros":
            return keras.Sequential([keras.layers.ZeroPadding2D(1), pool])
        if before == "lowest":
            pad = keras.layers.Lambda(
                lambda x: keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=float("-inf"))
            )
            return keras.Sequential([pad, pool])
        return pool

    return build


BOTH = ((1, 1), (1, 1))
MAX_POOL = Layer(
    "MaxPool2d",
    _images(H=8, W=6, P=4, Q=3),
    {
        "torch": torch_port(lambda c: nn.MaxPool2d(3, 2, padding=1)),
        "keras": keras_port(_keras_pool("MaxPooling2D", "valid", "lowest"), layout=LAST),
        "jax": jax_port(_pool(BOTH), layout=LAST),
    },
    [
        Fault(
            "SAME for padding=1",
            "y",
            "SAME padding",
            {
                "keras": {"build": _keras_pool("MaxPooling2D", "same")},
                "jax": {"build": _pool("SAME")},
            },
        ),
        Fault(
            "padded with zeros",
            "y",
            "zero padding",
            {"keras": {"build": _keras_pool("MaxPooling2D", "valid", "zeros")}},
        ),
    ],
)
AVG_POOL = Layer(
    "AvgPool2d",
    _images(H=7, W=5, P=4, Q=3),
    {
        "torch": torch_port(lambda c: nn.AvgPool2d(3, 2, padding=1)),
        "keras": keras_port(_keras_pool("AveragePooling2D", "valid", "zeros"), layout=LAST),
        "jax": jax_port(_pool(BOTH, "avg_pool"), layout=LAST),
    },
    [
        Fault(
            "padding not counted",
            "y",
            "count_include_pad",
            {
                "keras": {"build": _keras_pool("AveragePooling2D", "same")},
                "jax": {"build": _pool(BOTH, "avg_pool", count_include_pad=False)},
            },
        ),
    ],
)
GLOBAL_POOL = Layer(
    "AdaptiveAvgPool2d(1)",
    {"layout": "N C H W", "outputs": {"y": "N C"}, "weights": {}, "config": {"C": 7, "H": 7, "W": 7}},
    {
        "torch": torch_port(
            lambda c: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ),
        "keras": keras_port(lambda c: keras.layers.GlobalAveragePooling2D(), layout=LAST),
        "jax": jax_port(lambda c: lambda inputs, weights: inputs["x"].mean((1, 2)), layout=LAST),
    },
    [
        Fault(
            "mean over the axes of channels-first",
            "y",
            "wrong axis",
            {"jax": {"build": lambda c: lambda inputs, weights: inputs["x"].mean((2, 3))}},
        ),
    ],
)


def _resize(method: str, **options: Any) -> Callable[[Config], Any]:
    return lambda config: (
        lambda inputs, weights: jax.image.resize(
            inputs["x"], (*inputs["x"].shape[:2], config["P"], config["Q"]), method, **options
        )
    )


def _corners(config: Config) -> Any:
    """Bilinear resizing with the corners aligned, as older code has it."""

    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"]
        for axis, size in ((2, config["P"]), (3, config["Q"])):
            place = jnp.linspace(0, x.shape[axis] - 1, size)
            low = jnp.clip(place.astype(int), 0, x.shape[axis] - 2)
            part = (place - low).astype(x.dtype).reshape(-1, *[1] * (3 - axis))
            x = jnp.take(x, low, axis) * (1 - part) + jnp.take(x, low + 1, axis) * part
        return x

    return call


UPSAMPLE = Layer(
    "Upsample, bilinear",
    _images(H=5, W=4, P=10, Q=8),
    {
        "torch": torch_port(lambda c: nn.Upsample(scale_factor=2, mode="bilinear")),
        "keras": keras_port(lambda c: keras.layers.UpSampling2D(2, interpolation="bilinear"), layout=LAST),
        "jax": jax_port(_resize("bilinear")),
    },
    [
        Fault(
            "corners aligned",
            "y",
            "align_corners",
            {
                "torch": {"build": lambda c: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)},
                "jax": {"build": _corners},
            },
        ),
        Fault(
            "nearest neighbours",
            "y",
            "interpolation",
            {"keras": {"build": lambda c: keras.layers.UpSampling2D(2)}},
        ),
    ],
)
DOWNSAMPLE = Layer(
    "Interpolate to half, bilinear",
    _images(H=12, W=10, P=6, Q=5),
    {
        "torch": torch_port(
            lambda c: lambda inputs, weights: nn.functional.interpolate(inputs["x"], size=(6, 5), mode="bilinear")
        ),
        "jax": jax_port(_resize("bilinear", antialias=False)),
    },
    [
        Fault("JAX's default antialias", "y", "antialias", {"jax": {"build": _resize("bilinear")}}),
    ],
)
NEAREST = Layer(
    "Interpolate 7x5 to 5x4, nearest",
    _images(H=7, W=5, P=5, Q=4),
    {
        "torch": torch_port(
            lambda c: lambda inputs, weights: nn.functional.interpolate(inputs["x"], size=(5, 4), mode="nearest-exact")
        ),
        "jax": jax_port(_resize("nearest")),
    },
    [
        Fault(
            "torch's nearest, which takes the lower index",
            "y",
            "half-pixel centres",
            {"torch": {"build": lambda c: lambda inputs, weights: nn.functional.interpolate(inputs["x"], size=(5, 4))}},
        ),
    ],
)


def _shuffle(blocks_first: bool) -> Callable[[Config], Any]:
    """Return build(config) of depth to space on channels-last images, r = 2."""

    def call(inputs: Any, weights: Any) -> Any:
        x = inputs["x"]
        n, h, w, c = x.shape
        if blocks_first:
            return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)
        return x.reshape(n, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c // 4)

    return lambda config: call


def _keras_shuffle(blocks_first: bool) -> Callable[[Config], Any]:
    def call(x: Any) -> Any:
        ops = keras.ops
        n, h, w, c = x.shape
        parts, order = ((2, 2, c // 4), (0, 1, 3, 2, 4, 5)) if blocks_first else ((c // 4, 2, 2), (0, 1, 4, 2, 5, 3))
        return ops.reshape(ops.transpose(ops.reshape(x, (n, h, w, *parts)), order), (n, 2 * h, 2 * w, c // 4))

    return lambda config: keras.layers.Lambda(call)


PIXEL_SHUFFLE = Layer(
    "PixelShuffle",
    {
        "layout": "N C H W",
        "outputs": {"y": "N E P Q"},
        "weights": {},
        "config": {"C": 12, "E": 3, "H": 4, "W": 5, "P": 8, "Q": 10},
    },
    {
        "torch": torch_port(lambda c: nn.PixelShuffle(2)),
        "keras": keras_port(_keras_shuffle(False), layout=LAST),
        "jax": jax_port(_shuffle(False), layout=LAST),
    },
    [
        Fault(
            "TensorFlow's order of channels, blocks first",
            "y",
            "order of channels",
            {"keras": {"build": _keras_shuffle(True)}, "jax": {"build": _shuffle(True)}},
        ),
    ],
)
