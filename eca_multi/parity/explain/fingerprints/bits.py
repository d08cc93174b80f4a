"""Probes of bits: what float32 inputs are rounded to, and whether the same sample gives the same bits again."""

from collections.abc import Callable
from functools import partial

import numpy as np

from .accumulation import gate_sums
from .primitives import FACTORS, SIGNAL, NotApplicable, Primitives, channels_native, convolve, seeded, wide


def input_precision(p: Primitives, op: str) -> str:
    """Return what float32 inputs are rounded to: TF32 (10 bits) has 1 + 2^-9 and not 1 + 2^-20, bfloat16 neither."""
    fine, coarse = 1 + 2.0**-20, 1 + 2.0**-9
    out = {value: _times_one(p, op, value) for value in (fine, coarse)}
    return "float32" if out[fine] == fine else "tf32" if out[coarse] == coarse else "bfloat16"


def _times_one(p: Primitives, op: str, value: float) -> float:
    if op == "conv1d":
        return float(wide(p, convolve(p, np.full(SIGNAL, value), np.array([0.0, 1.0, 0.0]), "float32")).min())
    a, b = (
        p.tensor(scale * np.eye(*shape, dtype=np.float32)) for scale, shape in zip((value, 1), FACTORS, strict=True)
    )
    return float(np.diag(wide(p, p.matmul(a, b))).min())


def _batched(p: Primitives, op: str, n: int) -> np.ndarray:
    """Return op of the first n of eight samples, in float32."""
    rng = seeded()
    if op == "matmul":
        x, w = (rng.normal(size=shape).astype(np.float32) for shape in FACTORS)
        return p.numpy(p.matmul(p.tensor(x[:n]), p.tensor(w)))
    if op == "conv1d":
        return p.numpy(convolve(p, rng.normal(size=SIGNAL)[:n], rng.normal(size=3), "float32"))
    x = channels_native(p, rng.normal(size=(8, 56 * 56, 16)).astype(np.float32))[:n]
    return p.numpy(p.mean(p.tensor(x), 2 if p.channel_axis == 1 else 1))


def batch_invariant(p: Primitives, op: str) -> bool:
    return np.array_equal(_batched(p, op, 8)[:1], _batched(p, op, 1))


def repeatable(p: Primitives) -> bool:
    """Repeat a mean, a product and a convolution in float32, and the gate's gradient in bfloat16 if there is one."""
    runs: list[Callable[[], np.ndarray]] = [partial(_batched, p, op, 8) for op in ("mean", "matmul", "conv1d")]
    data = seeded().normal(size=(64, 56 * 56))
    try:
        gate_sums(p, data, "bfloat16")
        runs.append(partial(gate_sums, p, data, "bfloat16"))
    except NotApplicable:
        pass
    return all(np.array_equal(run(), run()) for run in runs)
