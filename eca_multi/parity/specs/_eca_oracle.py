"""The oracle of ECA: the NumPy reference, and the running error analysis of each of its stages.

Each stage adds its own rounding to what it was handed, with the unit roundoff `u` of the dtype, the float32
accumulator's `U_ACC`, and sqrt(n) for a sum of n terms. There is no constant per shape or framework. Derivation and
measurements: docs/parity.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi import reference
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import labelled

Solved = dict[str, tuple[np.ndarray, np.ndarray]]


def solve(job: Job) -> Solved:
    """Return the reference and the error E of the output, the gradients and the taps.

    A tap in `job.given` takes the place of the stage's own value, with no error of its own: what follows is then judged
    in isolation.
    """
    x, w = job.inputs["x"].astype(np.float64), job.weights["w"].astype(np.float64)
    given = labelled(job.given)
    forward = _Forward(x, w, job.inputs.get("mask"), job.config, job.dtype, given)
    solved = forward.solved
    if job.gradients:
        cotangent = job.cotangents["y"].astype(np.float64)
        solved |= forward.backward(cotangent, given)
        ones = forward.backward(np.ones_like(x), {})
        solved |= {f"{name}@ones": ones[name] for name in ("dx", "dw")}
    return solved


class _Forward:
    def __init__(
        self,
        x: np.ndarray,
        w: np.ndarray,
        mask: np.ndarray | None,
        config: Mapping[str, Any],
        dtype: str,
        given: Mapping[str, np.ndarray],
    ) -> None:
        self.x, self.w, self.padding, self.gate_name = x, w, config["padding"], config["gate"]
        self.u, self.tiny = rounding(dtype).u, rounding(dtype).tiny
        self.kernel = np.atleast_2d(w)
        self.k = self.kernel.shape[1]
        self.axes = tuple(range(2, x.ndim))
        full = (len(x), *x.shape[2:])
        self.valid = (np.ones(full, bool) if mask is None else np.broadcast_to(mask, full))[:, None]
        self.count = np.maximum(self.valid.sum(self.axes), 1)

        u, tiny = self.u, self.tiny
        p = np.where(self.valid, x, 0.0).sum(self.axes) / self.count
        e_p = u * abs(p) + U_ACC * np.sqrt(self.count) * np.where(self.valid, abs(x), 0.0).sum(self.axes) / self.count
        e_p = e_p + tiny
        self.solved: Solved = {"pooled": (p, e_p)}
        self.p, self.e_p = _replace(given, "pooled", p, e_p)

        z = self.correlate(self.p, self.kernel)
        e_z = self.correlate(self.e_p, abs(self.kernel)) + u * abs(z)
        e_z = e_z + U_ACC * np.sqrt(self.k) * self.correlate(abs(self.p), abs(self.kernel)) + tiny
        self.solved["conv"] = z, e_z
        self.z, self.e_z = _replace(given, "conv", z, e_z)

        g = reference.gate_value(self.z, self.gate_name)
        self.slope = abs(reference.gate_slope(self.z, self.gate_name))
        e_g = self.slope * self.e_z + 2 * u * g + tiny
        self.solved["gate"] = g, e_g
        self.g, self.e_g = _replace(given, "gate", g, e_g)

        y = x * self.up(self.g)
        self.solved["y"] = y, abs(x) * self.up(self.e_g) + u * abs(y) + tiny

    def backward(self, G: np.ndarray, given: Mapping[str, np.ndarray]) -> Solved:
        u, tiny, x = self.u, self.tiny, reference.without_bad_padding(self.x, self.valid)
        dg = (G * x).sum(self.axes)
        e_dg = u * abs(dg) + (u + U_ACC * np.sqrt(np.prod(x.shape[2:]))) * abs(G * x).sum(self.axes) + tiny
        solved: Solved = {"d_gate": (dg, e_dg)}
        dg, e_dg = _replace(given, "d_gate", dg, e_dg)

        dz = dg * reference.gate_slope(self.z, self.gate_name)
        e_dz = self.slope * e_dg + abs(dg) * (self.e_g + u * self.g) + 2 * u * abs(dz) + tiny
        solved["d_conv"] = dz, e_dz
        dz, e_dz = _replace(given, "d_conv", dz, e_dz)

        dp = self.correlate(dz, self.kernel, transpose=True)
        e_dp = self.correlate(e_dz + 2 * u * abs(dz), abs(self.kernel), transpose=True)
        solved["d_pooled"] = dp, e_dp + u * abs(dp) + tiny
        dp, e_dp = _replace(given, "d_pooled", dp, e_dp)

        g = self.up(self.g)
        dx = G * g + np.where(self.valid, self.up(dp / self.count), 0.0)
        e_mean = np.where(self.valid, self.up(e_dp / self.count), 0.0)
        e_dx = abs(G) * self.up(self.e_g) + u * (abs(dx) + abs(G) * g) + e_mean + tiny
        solved["dx"] = dx, e_dx

        taps, errors = [], []
        for j in range(self.k):
            p, e_p = (reference.shift(a, j - self.k // 2, self.padding) for a in (self.p, self.e_p))
            taps.append(dz * p)
            errors.append(e_dz * abs(p) + abs(dz) * e_p + U_ACC * np.sqrt(dz.size) * abs(dz * p))
        summed = (0, 1) if self.w.ndim == 1 else 0
        dw = np.stack(taps, -1).sum(summed)
        solved["dw"] = dw, np.stack(errors, -1).sum(summed) + u * abs(dw) + tiny
        return solved

    def correlate(self, a: np.ndarray, kernel: np.ndarray, *, transpose: bool = False) -> np.ndarray:
        """Correlate with the kernel over the channels, or with its transpose."""
        half, total = self.k // 2, np.zeros_like(a)
        for j in range(self.k):
            if transpose:
                total += reference.shift(kernel[:, j] * a, half - j, self.padding)
            else:
                total += kernel[:, j] * reference.shift(a, j - half, self.padding)
        return total

    def up(self, a: np.ndarray) -> np.ndarray:
        return a.reshape(a.shape + (1,) * (self.x.ndim - 2))


def _replace(
    given: Mapping[str, np.ndarray], name: str, value: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return (given[name].astype(np.float64), np.zeros_like(error)) if name in given else (value, error)
