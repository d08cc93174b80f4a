"""The engine for NumPy functions: in float32 as a runner, in float64 as the reference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from eca_multi.parity.define.dtypes import DTYPES, U_ACC, rounding
from eca_multi.parity.define.job import ONES, Job, Tensor, is_float

from .base import Computed, Engine, Native, Unsupported


class NumpyEngine(Engine):
    distributions = ("numpy",)
    _wrap: Callable[[np.ndarray], np.ndarray] = staticmethod(np.asarray)

    def compute(self, job: Job) -> Computed:
        if job.compiled:
            raise Unsupported("NumPy compiles nothing")
        if job.dtype == "bfloat16":  # ml_dtypes' sums are 170 ULP off, and half of its functions return float32
            raise Unsupported("NumPy has no bfloat16 of its own")
        native = self.function_weights(job)
        slots = self.slots(job, native)
        dtype, parameters = self.dtype(job.dtype), self.dtype(job.parameters)
        wrap = self._wrap
        weights = {n: wrap(a.astype(parameters)) for n, a in native.items()}
        inputs = {n: wrap(a.astype(dtype)) if is_float(a) else a.copy() for n, a in self.native_inputs(job).items()}
        settings = job.settings()
        done = Computed(self.adapter.build(settings)(inputs, weights), slots)
        differentiate = getattr(self.adapter, "gradients", None)
        if job.gradients and differentiate is not None:
            named = self.named_outputs(job, done.outputs)
            cotangents = {n: self.to_layout(job, n)(a).astype(dtype) for n, a in job.cotangents.items()}
            for suffix, given in (("", cotangents), (ONES, {n: np.ones_like(named[n]) for n in cotangents})):
                grads = differentiate(inputs, weights, given, settings)
                done.input_grads[suffix] = {n: grads[f"d{n}"] for n in inputs if f"d{n}" in grads}
                done.weight_grads[suffix] = {n: grads[f"d{n}"] for n in weights if f"d{n}" in grads}
        return done

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float64) if name == "float64" else DTYPES[name]

    def to_numpy(self, tensor: Any) -> Tensor:
        array = np.asarray(tensor)
        wide = array if array.dtype.kind in "biu" or array.dtype == np.float64 else array.astype(np.float32)
        return Tensor(wide, array.dtype.name)

    def save_and_load(self, job: Job) -> Native:
        raise Unsupported("a NumPy function keeps no weights")

    def fingerprint(self) -> dict[str, Any]:
        from eca_multi.parity.explain.fingerprints.numpy import probe

        return probe()


class NumpyReference(NumpyEngine):
    """A NumPy function in float64 as the oracle: with its own error analysis, or else re-run with rounding noise."""

    @property
    def kind(self) -> str:
        return "stochastic" if getattr(self.adapter, "solve", None) is None else "analytic"

    def solve(self, job: Job, samples: int = 16) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the reference and the error E of each result."""
        analysis = getattr(self.adapter, "solve", None)
        if analysis is not None:
            return dict(analysis(job))
        from eca_multi.parity.budget.noisy_array import budget_numpy

        levels = rounding(job.dtype)

        def evaluate(wrap: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
            self._wrap = wrap
            wide = replace(job, dtype="float64", param_dtype="")
            return {name: tensor.values for name, tensor in self.evaluate(wide).items()}

        values, errors = budget_numpy(evaluate, levels.u, U_ACC, levels.tiny, samples=samples)
        return {name: (values[name], errors[name]) for name in values}

    def exact(self, job: Job) -> dict[str, np.ndarray]:
        """Return the reference alone."""
        return {name: value for name, (value, _) in self.solve(job, samples=0).items()}

    def perturbed(self, job: Job, seed: int) -> dict[str, np.ndarray]:
        """Return the reference moved by up to its error."""
        rng = np.random.default_rng(seed)
        solved = self.solve(job, samples=4)
        return {name: value + error * rng.choice([-1.0, 1.0], value.shape) for name, (value, error) in solved.items()}
