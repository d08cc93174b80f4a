"""The error budget: how far a correct implementation of ECA may be from the float64 oracle, element by element.

A fixed tolerance either rejects correct half-precision results or lets wrong ones pass, because how much rounding
matters depends on the data (cancellation, saturation, length of the sums). This is a running error analysis instead:
each stage adds its own rounding to what it was handed, with the unit roundoff `u` of the dtype, the float32
accumulator's `U_ACC`, and sqrt(n) for a sum of n terms. There is no constant per layer, shape or framework; `SAFETY`
covers
second-order terms.

Derivation and measurements: docs/parity.md.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from eca_multi import reference

SAFETY = 2.0

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
U_ACC = 2.0**-24


def quantise(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a dtype and return the values in float64."""
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[dtype]).astype(np.float64)


def oracle(arrays: Mapping[str, np.ndarray], options: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return, for quantised inputs, {"y": (reference, budget), "dx": ..., "dw": ...}."""
    x, w, G, mask = arrays["x"], arrays["weight"], arrays["cotangent"], arrays.get("mask")
    padding, gate = options.get("padding", "zeros"), options.get("gate", "sigmoid")
    fwd = reference.forward(x, w, padding=padding, gate=gate, mask=mask)
    bwd = reference.backward(x, w, G, padding=padding, gate=gate, mask=mask)

    u = float(ml_dtypes.finfo(DTYPES[dtype]).eps) / 2
    tiny = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
    axes = tuple(range(2, x.ndim))
    size = np.prod(x.shape[2:])
    valid = (
        np.ones((len(x), 1, *x.shape[2:])) if mask is None else np.broadcast_to(mask, (len(x), *x.shape[2:]))[:, None]
    )
    count = np.maximum(valid.sum(axes), 1)

    def up(a: np.ndarray) -> np.ndarray:
        return a.reshape(a.shape + (1,) * (x.ndim - 2))

    def spread(a: np.ndarray, transpose: bool = False) -> np.ndarray:
        """Correlate with |w| over the channels, or with its transpose: how errors travel through the convolution."""
        kernel = np.abs(np.atleast_2d(w))
        half = kernel.shape[1] // 2
        total = np.zeros_like(a)
        for j in range(kernel.shape[1]):
            if transpose:
                total += reference.shift(kernel[:, j] * a, half - j, padding)
            else:
                total += kernel[:, j] * reference.shift(a, j - half, padding)
        return total

    k = np.shape(w)[-1]
    slope = np.abs(reference.gate_slope(fwd.logits, gate))
    g, p = np.abs(fwd.gate), np.abs(fwd.pooled)
    d_gate, d_logits = np.abs(bwd.d_gate), np.abs(bwd.d_logits)

    e_p = u * p + U_ACC * np.sqrt(count) * (np.abs(x) * valid).sum(axes) / count + tiny
    e_z = spread(e_p) + u * np.abs(fwd.logits) + U_ACC * np.sqrt(k) * spread(p) + tiny
    e_g = slope * e_z + 2 * u * g + tiny
    e_y = np.abs(x) * up(e_g) + u * np.abs(fwd.y) + tiny

    e_dg = u * d_gate + (u + U_ACC * np.sqrt(size)) * np.abs(G * x).sum(axes) + tiny
    e_dz = slope * e_dg + d_gate * (e_g + u * g) + 2 * u * d_logits + tiny
    e_dp = spread(e_dz + 2 * u * d_logits, transpose=True) / count
    e_dx = np.abs(G) * up(e_g) + u * (np.abs(bwd.dx) + np.abs(G) * up(g)) + valid * up(e_dp) + tiny

    half = k // 2
    taps = [
        e_dz * shifted_p
        + d_logits * reference.shift(e_p, j - half, padding)
        + U_ACC * np.sqrt(d_logits.size) * d_logits * shifted_p
        for j in range(k)
        for shifted_p in [reference.shift(p, j - half, padding)]
    ]
    terms = np.stack(taps, -1)
    e_dw = (terms.sum((0, 1)) if np.ndim(w) == 1 else terms.sum(0)) + u * np.abs(bwd.dw) + tiny
    return {"y": (fwd.y, SAFETY * e_y), "dx": (bwd.dx, SAFETY * e_dx), "dw": (bwd.dw, SAFETY * e_dw)}
