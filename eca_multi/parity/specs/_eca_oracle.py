"""The oracle of ECA: the values of `eca_multi.reference`, and a running error analysis beside them.

This module computes errors alone. Each stage adds its own rounding to the error that it inherits, with the unit
roundoff `u` of the dtype, the float32 accumulator's `U_ACC`, and sqrt(n) for a sum of n terms. There is no constant per
shape or framework. Derivation and measurements: docs/parity.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from eca_multi import _means, reference
from eca_multi._pooling import check_pooling
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Cotangent, Kind, Quantity, labelled

Solved = dict[str, tuple[np.ndarray, np.ndarray]]

# The specification's taps, and the reference's names of them.
_TAPS = {"pooled": "pooled", "conv": "logits", "gate": "gate"}
_STAGES = {
    Quantity(kind, tap): f"{prefix}{stage}"
    for kind, prefix in ((Kind.TAP, ""), (Kind.TAP_GRADIENT, "d_"))
    for tap, stage in _TAPS.items()
}


def solve(job: Job) -> Solved:
    """Return the reference and the error E of the output, the gradients and the taps, by label.

    A tap in `job.given` replaces the stage's value and has no error, which isolates the later stages.
    """
    analysis = _Analysis(job)
    solution = analysis.forward()
    if job.gradients:
        y = job.cotangents["y"].astype(np.float64)
        solution |= analysis.backward(y)
        ones = analysis.backward(np.ones_like(y), Cotangent.ONES)
        solution |= {q: pair for q, pair in ones.items() if q.kind is not Kind.TAP_GRADIENT}
    return labelled(solution)


class _Analysis:
    def __init__(self, job: Job) -> None:
        self.x, self.w = job.inputs["x"].astype(np.float64), job.weights["w"].astype(np.float64)
        self.options: dict[str, Any] = {name: job.config[name] for name in ("padding", "gate")}
        self.options |= {name: job.config.get(name) for name in ("pool_axes", "causal_axis")}
        self.options["mask"] = job.inputs.get("mask")
        self.residual = job.inputs.get("residual")
        self.instead = {_STAGES[quantity]: array.astype(np.float64) for quantity, array in job.given.items()}
        self.u, self.tiny = rounding(job.dtype).u, rounding(job.dtype).tiny
        self.kernel = np.atleast_2d(self.w)
        self.pooling = check_pooling(self.options["pool_axes"], self.options["causal_axis"], 1, self.x.shape)
        self.valid, self.count = _means.valid_positions(self.x, 1, self.pooling, self.options["mask"])

    def forward(self) -> dict[Quantity, tuple[np.ndarray, np.ndarray]]:
        x, kernel, padding, u, tiny = self.x, self.kernel, self.options["padding"], self.u, self.tiny
        out = reference.forward(x, self.w, **self.options, residual=self.residual, instead=self.instead)
        p, z, g = (self.instead.get(stage, getattr(out, stage)) for stage in ("pooled", "logits", "gate"))

        magnitude = _means.mean(abs(x), self.valid, self.count, 1, self.pooling)
        e_pooled = u * abs(out.pooled) + U_ACC * np.sqrt(self.count) * magnitude + tiny
        e_p = _inherited("pooled", e_pooled, self.instead)
        magnitude = reference.correlate(abs(p), abs(kernel), padding)
        e_logits = reference.correlate(e_p, abs(kernel), padding) + u * abs(out.logits)
        e_logits = e_logits + U_ACC * np.sqrt(kernel.shape[1]) * magnitude + tiny
        e_z = _inherited("logits", e_logits, self.instead)
        slope = abs(reference.gate_slope(z, self.options["gate"]))
        e_gate = slope * e_z + 2 * u * out.gate + tiny
        e_g = _inherited("gate", e_gate, self.instead)
        e_y = abs(x) * self._expand(e_g) + u * abs(out.y) + tiny
        if self.residual is not None:  # the product and the sum are rounded in the accumulator, then y once
            e_y = e_y + U_ACC * abs(x * self._expand(g))
        self.p, self.g, self.e_p, self.e_g, self.slope = p, g, e_p, e_g, slope  # for backward
        return {
            Quantity(Kind.TAP, "pooled"): (out.pooled, e_pooled),
            Quantity(Kind.TAP, "conv"): (out.logits, e_logits),
            Quantity(Kind.TAP, "gate"): (out.gate, e_gate),
            Quantity(Kind.OUTPUT, "y"): (out.y, e_y),
        }

    def backward(
        self, G: np.ndarray, cotangent: Cotangent = Cotangent.DRAWN
    ) -> dict[Quantity, tuple[np.ndarray, np.ndarray]]:
        """Analyse the gradients of sum(G * y). A tap's given gradient belongs to the drawn cotangent."""
        kernel, padding, u, tiny, instead = self.kernel, self.options["padding"], self.u, self.tiny, self.instead
        if cotangent is Cotangent.ONES:
            instead = {stage: array for stage, array in instead.items() if stage in _TAPS.values()}
        out = reference.backward(self.x, self.w, G, **self.options, instead=instead)
        dg, dz, dp = (instead.get(stage, getattr(out, stage)) for stage in ("d_gate", "d_logits", "d_pooled"))

        products = _means.total(abs(G * _means.without_bad_padding(self.x, self.valid)), 1, self.pooling)
        terms = np.sqrt(np.prod([G.shape[axis] for axis in self.pooling.whole]))
        e_d_gate = u * abs(out.d_gate) + (u + U_ACC * terms) * products + tiny
        e_dg = _inherited("d_gate", e_d_gate, instead)
        e_d_logits = self.slope * e_dg + abs(dg) * (self.e_g + u * self.g) + 2 * u * abs(out.d_logits) + tiny
        e_dz = _inherited("d_logits", e_d_logits, instead)
        e_dp = reference.correlate_back(e_dz + 2 * u * abs(dz), abs(kernel), padding)
        e_d_pooled = e_dp + u * abs(out.d_pooled) + tiny
        e_dp = _inherited("d_pooled", e_dp, instead)

        g = self._expand(self.g)
        e_sums = _means.running_back(e_dp / self.count, self.pooling)
        if self.pooling.running is not None:
            magnitude = _means.running_back(abs(dp) / self.count, self.pooling)
            e_sums = e_sums + U_ACC * np.sqrt(dp.shape[self.pooling.running]) * magnitude
        e_mean = np.where(self.valid, self._expand(e_sums), 0.0)
        e_dx = abs(G) * self._expand(self.e_g) + u * (abs(out.dx) + abs(G) * g) + e_mean + tiny
        k = kernel.shape[1]
        e_dw = reference.products(e_dz, abs(self.p), k, padding) + reference.products(abs(dz), self.e_p, k, padding)
        e_dw = e_dw + U_ACC * np.sqrt(dz.size) * reference.products(abs(dz), abs(self.p), k, padding)
        e_dw = e_dw.sum((0, 1) if self.w.ndim == 1 else 0) + u * abs(out.dw) + tiny
        solution = {
            Quantity(Kind.TAP_GRADIENT, "gate"): (out.d_gate, e_d_gate),
            Quantity(Kind.TAP_GRADIENT, "conv"): (out.d_logits, e_d_logits),
            Quantity(Kind.TAP_GRADIENT, "pooled"): (out.d_pooled, e_d_pooled),
            Quantity(Kind.INPUT_GRADIENT, "x", cotangent): (out.dx, e_dx),
            Quantity(Kind.WEIGHT_GRADIENT, "w", cotangent): (out.dw, e_dw),
        }
        if self.residual is not None:  # the cotangent itself
            solution[Quantity(Kind.INPUT_GRADIENT, "residual", cotangent)] = (G, np.full(G.shape, tiny))
        return solution

    def _expand(self, a: np.ndarray) -> np.ndarray:
        return _means.expand(a, 1, self.pooling)


def _inherited(stage: str, error: np.ndarray, instead: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the error that later stages inherit: none from a stage with a given value."""
    return np.zeros_like(error) if stage in instead else error
