"""PyTorch in float64 as the oracle, with the stochastic budget."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.job import Arrays, Job
from eca_multi.parity.define.taps import Recorder
from eca_multi.parity.engines.base import Native, Slot
from eca_multi.parity.engines.torch import TorchEngine

from .noise import RoundingNoise, budget

Solved = dict[str, tuple[np.ndarray, np.ndarray]]


class TorchReference(TorchEngine):
    """A torch adapter in float64. Its error comes from re-runs with rounding noise after every operation."""

    kind = "stochastic"
    _backward: Native
    _narrows = False

    def solve(self, job: Job, samples: int = 16) -> Solved:
        """Return the reference and the error E of each result; a tap in `job.given` is put in the tap's place."""
        wide, levels = self._widened(job), rounding(job.dtype)
        values, errors = budget(lambda: self._tensors(wide), levels.u, U_ACC, levels.tiny, samples=samples)
        return {name: (values[name], errors[name]) for name in values}

    def exact(self, job: Job) -> dict[str, np.ndarray]:
        """Return the reference alone."""
        wide = self._widened(job)
        return {name: tensor.numpy() for name, tensor in self._tensors(wide).items()}

    def perturbed(self, job: Job, seed: int) -> dict[str, np.ndarray]:
        """Return one re-run with rounding noise."""
        wide, levels = self._widened(job), rounding(job.dtype)
        with RoundingNoise(levels.u, U_ACC, levels.tiny, torch.Generator().manual_seed(seed)):
            return {name: tensor.numpy() for name, tensor in self._tensors(wide).items()}

    def _widened(self, job: Job) -> Job:
        self._narrows = job.parameters != job.dtype
        return replace(job, dtype="float64", param_dtype="")

    def load(self, job: Job) -> tuple[torch.nn.Module, dict[str, Slot], Native]:
        """Where parameters are wider than what is computed in, they are rounded first: each re-run does so too."""
        layer, slots, native = super().load(job)
        if self._narrows:
            with torch.no_grad():
                for name, slot in slots.items():
                    if slot.name in job.weights:
                        native[name].mul_(1.0)  # gets the noise of one rounding
        return layer, slots, native

    def _tensors(self, job: Job) -> dict[str, torch.Tensor]:
        self._backward = {}
        results = {name: torch.from_numpy(np.asarray(t.values)) for name, t in self.evaluate(job).items()}
        for name, value in self._backward.items():
            results[name] = value
        return results

    def recorder(self, job: Job, taps: Native) -> Recorder | None:
        """Keep each tap's own value, and go on with the given one, forwards and backwards."""

        def record(name: str, value: torch.Tensor) -> torch.Tensor:
            taps[name] = value
            if name not in job.given and f"d_{name}" not in job.given:
                return value
            going_on: torch.Tensor = _Substitute.apply(value, job.given, name, self._backward)
            return going_on

        return record if job.taps else None


class _Substitute(torch.autograd.Function):
    """Puts given values in the place of a tap's value and of its gradient, and keeps the gradient that came."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, given: Arrays, name: str, kept: Native) -> torch.Tensor:
        ctx.given, ctx.name, ctx.kept = given.get(f"d_{name}"), name, kept
        return value.clone() if name not in given else torch.from_numpy(np.float64(given[name])).reshape(value.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ctx.kept.setdefault(f"d_{ctx.name}", gradient.detach().clone())  # the first cotangent is the job's own
        if ctx.given is None:
            return gradient, None, None, None
        return torch.from_numpy(np.float64(ctx.given)).reshape(gradient.shape), None, None, None
