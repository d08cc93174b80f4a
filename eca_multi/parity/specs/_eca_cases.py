"""The cases of ECA: the fault that each case shows, and its data.

Data matter more than tolerances: with zero-mean noise the means vanish, every gate is near 0.5 and even a flipped
kernel goes unseen. So kernels are asymmetric, channels carry offsets, H != W, N > 1, and C is no power of two.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.sources import Arrays, Rng, booleans, normal
from eca_multi.parity.define.spec import Case

from ._images import photographs

# The cases whose point is their data share these sizes, so that a compiler compiles them once. They have more than
# 2048 positions, so that a sum of equal terms in float16 would stop growing.
SIZES = {"N": 2, "C": 20, "H": 53, "W": 61, "k": 3}

# "channels": the framework's usual place or the other one. Axes count with the channels at axis 1.
OPTIONS = {
    "padding": "zeros",
    "gate": "sigmoid",
    "shared": True,
    "channels": "usual",
    "pool_axes": None,
    "causal_axis": None,
}


def _same_sign(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    x = _features(rng, config, "NCHW")
    return {"x": np.abs(x), "dy": np.ones_like(x)}


def _saturated(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Draw gates of which a half is off both ends, and the others near 0 and 1: none would say nothing in bfloat16."""
    shape = tuple(config[axis] for axis in "NCHW")
    x = rng.normal(size=shape) + rng.uniform(0, 3, (1, shape[1], 1, 1))
    return {"x": x, "w": np.array([4.2, -4.3, 1.0]), "dy": _leaning(rng, x)}


def _leaning(rng: Rng, x: np.ndarray) -> np.ndarray:
    """Draw a cotangent with the signs of x for its mean, so that a gate's gradient, a sum of products, does not cancel.

    A sum that cancels is smaller than its rounding in bfloat16, and any gradient of w would be within its budget.
    """
    leaning: np.ndarray = rng.normal(size=x.shape) + np.sign(x)
    return leaning


def _leaning_photographs(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    x = photographs(rng, config)["x"]
    return {"x": x, "dy": _leaning(rng, x)}


def _positive_means(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Draw means of one sign: with a dozen channels, the products that add up to the gradient of w may else cancel."""
    shape = tuple(config[axis] for axis in "NCHW")
    x = rng.normal(size=shape) + rng.uniform(0, 1.5, (1, shape[1], 1, 1))
    return {"x": x, "dy": _leaning(rng, x)}


def _fp16_range(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    # Small weights and cotangents: the gate stays off its ends and the gradients inside float16.
    shape = tuple(config[axis] for axis in "NCHW")
    return {
        "x": rng.uniform(2e4, 6e4, shape),
        "w": rng.normal(size=config["k"]) * 2.0**-16,
        "dy": rng.normal(size=shape) * 2.0**-21,
    }


def _padded(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    lengths = np.array([37, 20, 1, 0])
    return {"mask": np.arange(config["L"]) < lengths[: config["N"], None]}


def _nan_padding(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Put NaN into the padding, which the loss ignores: its cotangent is 0."""
    mask, x, dy = _masked_signals(rng, config)
    return {"x": np.where(mask, x, np.nan), "mask": mask[:, 0], "dy": np.where(mask, dy, 0.0)}


def _infinite_padding(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Put infinities into some of the padding, all of which has a cotangent."""
    mask, x, dy = _masked_signals(rng, config)
    infinite = ~mask & (rng.random(x.shape) < 0.5)
    return {"x": np.where(infinite, np.copysign(np.inf, x), x), "mask": mask[:, 0], "dy": dy}


def _leaning_video(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    x = _features(rng, config, "NCTHW", 0.0)
    return {"x": x, "dy": _leaning(rng, x)}


def _leaning_signals(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    x = _features(rng, config, "NCL", 0.0)
    return {"x": x, "dy": _leaning(rng, x)}


def _gaps(rng: Rng, config: Mapping[str, Any]) -> Arrays:
    """Leave positions out, the first ones of a sample and one sample's all, with NaN in them that the loss ignores."""
    arrays = _leaning_signals(rng, config)
    valid = rng.random((config["N"], config["L"])) < 0.7
    valid[0, :5], valid[1] = False, False
    seen = valid[:, None]
    return {"x": np.where(seen, arrays["x"], np.nan), "mask": valid, "dy": np.where(seen, arrays["dy"], 0.0)}


def _masked_signals(rng: Rng, config: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask, x = _padded(rng, config)["mask"][:, None], _features(rng, config, "NCL")
    return mask, x, rng.normal(size=x.shape)


def _features(rng: Rng, config: Mapping[str, Any], axes: str, low: float = -2.0) -> np.ndarray:
    shape = tuple(config[axis] for axis in axes)
    return rng.normal(size=shape) + rng.uniform(low, 2, (1, shape[1], *[1] * (len(axes) - 2)))


def _signal(name: str, why: str, axes: str, config: Mapping[str, Any], **rest: Any) -> Case:
    """A case whose features have other axes than N, C, H, W."""
    return Case(name, why, config, {"x": axes, **rest.pop("inputs", {})}, outputs={"y": axes}, **rest)


# Layers have a path of their own for one sample, and for large maps: in PyTorch from 2^15 numbers on.
LARGE_MAP = {"N": 2, "C": 20, "H": 31, "W": 29, "k": 5, "padding": "circular", "gate": "hard_sigmoid", "shared": False}

CASES: tuple[Case, ...] = (
    Case(
        "photographs",
        "two real photographs as 8x8-block DCT maps, 192 channels",
        {"C": 192, "H": 53, "W": 80, "k": 5},
        draw=_leaning_photographs,
    ),
    Case("offsets", "H != W, N > 1, a mean of its own in each channel"),
    Case("same-sign", "x > 0 and cotangent 1: long sums stagnate in half precision", draw=_same_sign),
    Case("saturated", "gates near 0 and 1, where 1 - gate cancels", draw=_saturated),
    Case("fp16-range", "x up to 6e4, where a float16 sum overflows", draw=_fp16_range),
    Case("short-channels", "C < k: the kernel reaches over both ends", {"C": 3, "H": 5, "W": 4, "k": 7}),
    Case("one-channel", "C = 1", {"N": 3, "C": 1, "H": 6, "W": 5}),
    Case("one-position", "N = H = W = 1: the mean is the value itself", {"N": 1, "C": 18, "H": 1, "W": 1}),
    Case("empty-batch", "N = 0: nothing to compare in y, and dw is 0", {"N": 0, "C": 10, "H": 6, "W": 7}),
    Case(
        "circular",
        "channels wrap around, gate 2*sigmoid",
        {"C": 12, "H": 7, "W": 5, "k": 5, "padding": "circular", "gate": "2sigmoid"},
        draw=_positive_means,
    ),
    Case(
        "per-channel",
        "ECA-NS: one kernel per channel, gate hard_sigmoid",
        {"C": 10, "H": 6, "W": 7, "gate": "hard_sigmoid", "shared": False},
        weights={"w": normal("C k")},
    ),
    *(
        _signal(name, why, "N C L", {"N": 4, "C": 24, "L": 37}, inputs={"mask": booleans("N L")}, draw=draw)
        for name, why, draw in (
            ("padded-sequences", "1-D with a mask, one sample all masked", _padded),
            ("nan-padding", "NaN in the padding, which the loss ignores: it reaches no gradient", _nan_padding),
            ("infinite-padding", "infinities in some of the padding, which has a cotangent", _infinite_padding),
        )
    ),
    _signal("volume", "3-D", "N C D H W", {"C": 14, "D": 3, "H": 5, "W": 4}),
    Case(
        "one-sample-circular",
        "N = 1, circular",
        {"N": 1, "C": 12, "H": 7, "W": 5, "k": 5, "padding": "circular", "gate": "2sigmoid"},
        draw=_positive_means,
    ),
    Case("large-map", "a large map, circular, one kernel per channel", LARGE_MAP, weights={"w": normal("C k")}),
    Case(
        "other-axis",
        "the same, channels last in torch, first in JAX and Keras",
        {**LARGE_MAP, "channels": "other"},
        weights={"w": normal("C k")},
    ),
    _signal(
        "frames",
        "a video of which each frame has gates of its own",
        "N C T H W",
        {"C": 14, "T": 3, "H": 5, "W": 4, "pool_axes": [3, 4]},
        draw=_leaning_video,
    ),
    _signal(
        "causal-sequence",
        "each step sees itself and what lies before it",
        "N C L",
        {"C": 24, "L": 150, "causal_axis": 2},
        draw=_leaning_signals,
    ),
    _signal(
        "causal-video",
        "whole frames up to now, the other place of the channels, circular, gate 2*sigmoid",
        "N C T H W",
        {
            "C": 12,
            "T": 6,
            "H": 4,
            "W": 5,
            "causal_axis": 2,
            "channels": "other",
            "padding": "circular",
            "gate": "2sigmoid",
        },
        draw=_leaning_video,
    ),
    _signal(
        "causal-gaps",
        "causal with a mask, NaN in what it leaves out",
        "N C L",
        {"N": 4, "C": 24, "L": 37, "causal_axis": 2, "gate": "hard_sigmoid"},
        inputs={"mask": booleans("N L")},
        draw=_gaps,
    ),
    Case(
        "residual",
        "a large map and a residual, which is added in the same pass",
        {**LARGE_MAP, "gate": "sigmoid"},
        inputs={"residual": normal("N C H W")},
        weights={"w": normal("C k")},
    ),
    _signal(
        "causal-residual",
        "a causal sequence and a residual, one kernel per channel",
        "N C L",
        {"C": 10, "L": 33, "causal_axis": 2, "shared": False},
        inputs={"residual": normal("N C L")},
        weights={"w": normal("C k")},
        draw=_leaning_signals,
    ),
)
