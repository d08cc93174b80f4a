"""Probes of single elements: subnormals, the sigmoid far below 0, NaN beside a convolution, products kept wider."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from .primitives import DTYPES, SIGNAL, Primitives, Value, channels_last, convolve, seeded, wide


def subnormals(p: Primitives, dtype: str) -> str:
    """Add subnormals, multiply to a subnormal, and multiply by one."""
    tiny = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
    cases = (
        (p.add, (tiny / 4, tiny / 4), (tiny / 4, tiny / 8), (tiny / 2, tiny * 3 / 8)),
        (p.multiply, (tiny, tiny / 2), (0.5, 2.0), (tiny / 2, tiny)),
    )
    kept: list[bool] = []
    for op, a, b, expected in cases:
        out = wide(p, op(*(p.tensor(np.repeat(np.array(x).astype(DTYPES[dtype]), 32)) for x in (a, b))))
        kept += [bool((part == value).all()) for part, value in zip(np.split(out, 2), expected, strict=True)]
    return "kept" if all(kept) else "mixed" if any(kept) else "flushed"


# All negative numbers of float16 and bfloat16; two intervals of float32, the first in steps of 0.001.
NEGATIVES: Mapping[str, np.ndarray] = {
    "float32": np.concatenate([np.linspace(-120, -80, 40001), np.linspace(-12, -10, 4001)]).astype(np.float32),
    "float16": np.arange(0x8001, 0xFC00, dtype=np.uint16).view(DTYPES["float16"]),
    "bfloat16": np.arange(0x8001, 0xFF80, dtype=np.uint16).view(DTYPES["bfloat16"]),
}


def sigmoid_cliff(p: Primitives, dtype: str) -> Value:
    zero = wide(p, p.sigmoid(p.tensor(NEGATIVES[dtype]))) == 0
    return round(float(NEGATIVES[dtype][zero].max()), 3) if zero.any() else "never"


def sigmoid_ulp(p: Primitives, dtype: str) -> float:
    zs = NEGATIVES[dtype].astype(np.float64)
    window = (zs >= -12) & (zs <= -10)
    exact = 1 / (1 + np.exp(-zs[window]))
    info = ml_dtypes.finfo(DTYPES[dtype])
    ulp = np.maximum(2.0 ** (np.floor(np.log2(exact)) - info.nmant), float(info.smallest_subnormal))
    error = np.abs(wide(p, p.sigmoid(p.tensor(NEGATIVES[dtype])))[window] - exact)
    return round(float(np.max(error / ulp)), 1)


def leak(p: Primitives, dtype: str) -> str:
    """Convolve with one Inf, then one NaN, at place 10; a kernel of 3 must carry them to places 9 to 11 alone."""
    places: set[int] = set()
    for bad in (np.inf, np.nan):
        x = seeded().normal(size=SIGNAL)
        x[0, 10, 0] = bad
        out = channels_last(p, wide(p, convolve(p, x, np.array([0.5, 1.0, 0.25]), dtype)))[0, :, 0]
        places |= set(np.flatnonzero(~np.isfinite(out)).tolist()) - {9, 10, 11}
    return " ".join(f"{place - 10:+d}" for place in sorted(places)) or "none"


def excess(p: Primitives, dtype: str) -> bool:
    """Compute x * x - y, where y is x * x rounded to the dtype: 0, unless the product is kept wider than the dtype."""
    x = seeded().uniform(1, 2, 1024).astype(DTYPES[dtype])
    y = x * x
    run = p.graph(lambda x, y: p.add(p.multiply(x, x), y))
    return bool(wide(p, run(p.tensor(x), p.tensor(-y))).any())
