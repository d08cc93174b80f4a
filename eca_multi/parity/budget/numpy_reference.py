"""A NumPy function in float64 as the oracle, with its own error analysis or else re-run with rounding noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from eca_multi.parity.define.adapters import NumpyAdapter
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.job import Job, identified
from eca_multi.parity.define.tensor import Quantity, Solution
from eca_multi.parity.engines.numpy import NumpyEngine

from .noisy_array import budget_numpy


class NumpyReference(NumpyEngine):
    """The reference of a run whose adapter is a NumPy function."""

    adapter: NumpyAdapter

    @property
    def kind(self) -> str:
        return "stochastic" if self.adapter.solve is None else "analytic"

    def solve(self, job: Job, samples: int = 16) -> Solution:
        """Return the reference and the error E of each result."""
        if self.adapter.solve is not None:
            return identified(self.adapter.solve(job), job)
        levels, wide = rounding(job.dtype), replace(job, dtype="float64", param_dtype="")

        def evaluate(wrap: Callable[[np.ndarray], np.ndarray]) -> dict[Quantity, np.ndarray]:
            self._wrap = wrap
            return {quantity: tensor.values for quantity, tensor in self.evaluate(wide).items()}

        values, errors = budget_numpy(evaluate, levels.u, U_ACC, levels.tiny, samples=samples)
        return {quantity: (values[quantity], errors[quantity]) for quantity in values}

    def exact(self, job: Job) -> dict[Quantity, np.ndarray]:
        """Return the reference alone."""
        return {quantity: value for quantity, (value, _) in self.solve(job, samples=0).items()}

    def perturbed(self, job: Job, seed: int) -> dict[Quantity, np.ndarray]:
        """Return the reference, each element moved by its error."""
        rng = np.random.default_rng(seed)
        solved = self.solve(job, samples=4)
        return {q: value + error * rng.choice([-1.0, 1.0], value.shape) for q, (value, error) in solved.items()}
