"""Data for whole networks: real photographs, and weights that a forward pass in NumPy draws on its way.

With weights drawn all at once, activations would die out or explode, the more with running statistics far from the
batch's. So each normalisation gets statistics near those of its input: of eight images, since those of two make the end
of a network, where each map is one pixel, chaotic.

A ReLU has no gradient at its kink, and max pooling none where two values tie: near such a place each framework may take
another branch, and the gradients of right implementations differ by far more than rounding. Among the millions of
activations of a network some always lie there. So the forward pass moves each bias before an activation, by a few
hundredths, until no value of its channel lies near a kink.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from eca_multi import reference
from eca_multi.networks import Block, Conv, Network, Preprocessing, Tensor, find, preprocessing_of, tensors
from eca_multi.parity.define.sources import Rng

from ._images import load_photographs

Array = np.ndarray
EPS = 1e-5  # of every normalisation
SEEN = 8  # images for the running statistics
REACH = 0.05  # the longest move of a bias
CLEAR = 1e-4  # the least distance from a kink: some hundred times float32's rounding in a deep network
APART = 2e-6  # the least distance of the largest two values under max pooling: ten times the stem's rounding
LEAST_GATE = 0.05  # a smaller gate holds its channel within CLEAR of 0, whatever the bias
_TRIES = 20


def photographs(rng: Rng, preprocessing: Preprocessing, count: int, size: int) -> Array:
    """Return `count` crops of scikit-learn's two photographs, normalised: float64 of shape (count, 3, size, size).

    Half a step of the camera's 8 bits is added as noise: in a white sky all pixels are equal, and max pooling ties.
    """
    from PIL import Image

    crops, images = [], load_photographs()
    for i in range(count):
        image = Image.fromarray(images[i % 2])
        scale = size / min(image.size)
        wide = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left = (wide.width - size) * (i // 2 + 1) // ((count + 1) // 2 + 1)
        crops.append(np.asarray(wide.crop((left, 0, left + size, size)), np.float64) / 255)
    pixels = np.stack(crops) + rng.uniform(-0.5, 0.5, (count, size, size, 3)) / 255
    normalised = (pixels - preprocessing.mean) / preprocessing.std
    return np.moveaxis(normalised, -1, 1)


def rows(rng: Rng, preprocessing: Preprocessing, count: int, size: int) -> Array:
    """Return rows of the first photograph as signals of three channels: float64 of shape (count, 3, size)."""
    square = photographs(rng, preprocessing, 1, size)[0]
    return np.moveaxis(square[:, [size * (i + 1) // (count + 1) for i in range(count)]], 1, 0)


def listed(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the canonical tensors of the network that a case's config describes."""
    return tensors(
        find(config["network"]), num_classes=config["classes"], dims=config["dims"], features_only=config["features"]
    )


def network_data(rng: Rng, config: Mapping[str, Any]) -> dict[str, Array]:
    """Return the input "x" and all weights and states of a case."""
    return dict(_network_data(int(rng.integers(2**32)), tuple(sorted(config.items()))))


@lru_cache(maxsize=4)
def _network_data(seed: int, config: tuple[tuple[str, Any], ...]) -> dict[str, Array]:
    return _Walk(seed, dict(config)).everything()


class _Walk:
    """A forward pass that draws the weights on its way."""

    def __init__(self, seed: int, config: Mapping[str, Any]) -> None:
        self.rng = np.random.default_rng(seed)
        self.network: Network = find(config["network"])
        self.config = config
        self.training = bool(config["training"])
        self.kinks = (0.0,) if self.network.activation == "relu" else (0.0, 6.0)
        self.weights: dict[str, Array] = {}
        self.features: dict[str, Array] = {}
        self.tensors = listed(config)

    def everything(self) -> dict[str, Array]:
        config, network = self.config, self.network
        draw = photographs if config["dims"] == 2 else rows
        count = config["N"] if self.training else max(config["N"], SEEN)
        x = draw(self.rng, preprocessing_of(network.name), count, config["H"])
        y = self.stem(x)
        for block in network.blocks:
            y = self.block(block, y)
        if not config["features"]:
            for conv in network.head:
                y = self.layer(conv, y)
            self.logits = self.classify(y.mean(tuple(range(2, y.ndim))))
        return {"x": x[: config["N"]], **{name: self.weights[name] for name in self.tensors}}

    # --- the parts of a network

    def stem(self, x: Array) -> Array:
        for _ in range(_TRIES):
            y = x
            for conv in self.network.stem_convs:
                y = self.layer(conv, y)
            self.features["stem"] = y
            if not self.network.pool_stem:
                return y
            windows = _windows(y, 3, 2, -np.inf).reshape(*y.shape[:2], -1, 3 ** (y.ndim - 2))
            second, first = np.moveaxis(np.partition(windows, -2, axis=-1)[..., -2:], -1, 0)
            if (first - second)[first > 0].min() > APART:
                return windows.max(-1).reshape(*y.shape[:2], *[(n - 1) // 2 + 1 for n in y.shape[2:]])
        raise RuntimeError(f"no stem of {self.network.name} without near ties in its max pooling was found")

    def layer(self, conv: Conv, x: Array) -> Array:
        """Compute a convolution, its normalisation, and its activation if it has one."""
        y = self.normalise(conv, self.convolve(conv, x))
        if not conv.activation:
            return y
        return self.activate(y + self.move(f"{conv.norm}.bias", _forbidden(y, self.kinks)))

    def block(self, block: Block, x: Array) -> Array:
        branch = x
        for conv in block.convs:
            branch = self.layer(conv, branch)
        shortcut: Array = np.zeros(())
        if block.shortcut is not None:
            shortcut = self.layer(block.shortcut, _halved(x) if block.pool else x)
        elif block.residual:
            shortcut = x
        y = self.gated(block, branch, shortcut)
        self.features[block.path] = y
        return self.activate(y) if self.network.activation_after_add else y

    def gated(self, block: Block, branch: Array, shortcut: Array) -> Array:
        """Compute branch * gate + shortcut. If an activation follows, move the branch's bias until no value lies near a
        kink: in steps, since the gate moves along, and with another kernel if the steps go round in a circle."""
        bias = f"{block.convs[-1].norm}.bias"
        for turn in range(5 * _TRIES):
            if turn % _TRIES == 0:
                weight = self.kernel(f"{block.eca}.weight", branch)
            eca = reference.forward(branch, weight)
            y: Array = eca.y + shortcut
            if not self.network.activation_after_add:
                return y
            gate = np.expand_dims(eca.gate, tuple(range(2, y.ndim)))
            near = np.abs(y).min(axis=(0, *range(2, y.ndim))) < CLEAR
            if not near.any():
                return y
            branch = branch + self.move(bias, _forbidden(branch + shortcut / gate, self.kinks), near)
        raise RuntimeError(f"no bias of {block.path} was found that keeps all values off the activation's kinks")

    def kernel(self, name: str, branch: Array) -> Array:
        weight = self.draw(name, 0.5)
        while reference.forward(branch, weight).gate.min() < LEAST_GATE:
            self.weights[name] = weight = 0.8 * weight
        return weight

    def classify(self, pooled: Array) -> Array:
        name = self.network.classifier
        if not self.config["classes"]:
            return pooled
        weight = self.draw(f"{name}.weight", pooled.shape[1] ** -0.5)
        logits: Array = pooled @ weight.T + self.draw(f"{name}.bias", 0.5)
        return logits

    # --- the parts of a layer

    def convolve(self, conv: Conv, x: Array) -> Array:
        shape = self.tensors[f"{conv.path}.weight"].shape
        weight = self.draw(f"{conv.path}.weight", np.prod(shape[1:]) ** -0.5)
        return convolution(x, weight, conv.stride, conv.groups)

    def normalise(self, conv: Conv, x: Array) -> Array:
        """Normalise with a scale of 0.5 to 1.5, by the batch's statistics in training, else by running ones."""
        rng, size = self.rng, x.shape[1]
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes), x.var(axes)
        scale, bias = rng.uniform(0.5, 1.5, size), rng.normal(0, 0.5, size)
        wide = np.maximum(variance, variance.mean() / 4)  # a variance near zero would amplify rounding
        running = mean + 0.2 * np.sqrt(wide) * rng.normal(size=size), wide * rng.uniform(0.5, 2.0, size)
        names = ("weight", "bias", "running_mean", "running_var")
        self.weights |= {f"{conv.norm}.{n}": a for n, a in zip(names, (scale, bias, *running), strict=True)}
        mean, variance = (mean, variance) if self.training else running
        factor, shape = scale / np.sqrt(variance + EPS), (1, size, *[1] * (x.ndim - 2))
        return x * np.reshape(factor, shape) + np.reshape(bias - mean * factor, shape)

    def activate(self, y: Array) -> Array:
        return np.clip(y, 0, self.kinks[-1] if len(self.kinks) > 1 else None)

    def draw(self, name: str, scale: float) -> Array:
        if name not in self.weights or name.endswith(".weight"):
            self.weights[name] = scale * self.rng.normal(size=self.tensors[name].shape)
        return self.weights[name]

    def move(self, name: str, forbidden: Array, chosen: Array | None = None) -> Array:
        """Move a bias by the middle of the widest gap between the moves that would put a value onto a kink."""
        moves = np.zeros(len(forbidden))
        for channel in range(len(forbidden)) if chosen is None else np.flatnonzero(chosen):
            near = forbidden[channel][np.abs(forbidden[channel]) < REACH]
            ends = np.concatenate(([-REACH], np.sort(near), [REACH]))
            widest = np.diff(ends).argmax()
            moves[channel] = ends[widest : widest + 2].mean()
        self.weights[name] = self.weights[name] + moves
        return moves.reshape(-1, *[1] * self.config["dims"])


def convolution(x: Array, weight: Array, stride: int, groups: int) -> Array:
    """Convolve in any number of dimensions, padded by half the kernel: x (N, C, *S), weight (O, C / groups, *K)."""
    outputs, dims = len(weight), x.ndim - 2
    windows = _windows(x, weight.shape[-1], stride, 0.0)  # (N, C, *S', *K)
    space = windows.shape[2 : 2 + dims]
    columns = windows.reshape(len(x), groups, x.shape[1] // groups, np.prod(space), -1)
    columns = columns.transpose(1, 0, 3, 2, 4).reshape(groups, len(x) * np.prod(space), -1)
    products = columns @ weight.reshape(groups, outputs // groups, -1).transpose(0, 2, 1)
    result = products.reshape(groups, len(x), np.prod(space), -1).transpose(1, 0, 3, 2)
    return result.reshape(len(x), outputs, *space)


def _windows(x: Array, kernel: int, stride: int, fill: float) -> Array:
    """Return all windows of x, padded on both sides by half a window: (N, C, *S', *K)."""
    dims, half = x.ndim - 2, kernel // 2
    padded = np.pad(x, [(0, 0), (0, 0), *[(half, half)] * dims], constant_values=fill)
    windows = sliding_window_view(padded, [kernel] * dims, axis=tuple(range(2, x.ndim)))
    return windows[(slice(None), slice(None), *[slice(None, None, stride)] * dims)]


def _halved(x: Array) -> Array:
    """Average by two along each axis; sizes here are even, so that no window is partial."""
    for axis in range(2, x.ndim):
        x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x


def _forbidden(y: Array, kinks: Sequence[float]) -> Array:
    """Return, per channel, the moves that would put a value of y onto a kink: (C, number of values)."""
    values = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    return np.concatenate([kink - values for kink in kinks], axis=1)
