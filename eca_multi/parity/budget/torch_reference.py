"""PyTorch in float64 as the oracle, with the stochastic budget."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.taps import Recorder
from eca_multi.parity.define.tensor import Kind, Quantity, Solution
from eca_multi.parity.engines.base import Computed, Native
from eca_multi.parity.engines.torch import TorchEngine

from .noise import RoundingNoise, budget

Keep = Callable[[torch.Tensor], object]  # keeps the gradient that arrives at a tap


class TorchReference(TorchEngine):
    """A torch adapter in float64, whose error comes from re-runs with rounding noise after every operation."""

    kind = "stochastic"
    _backward: dict[Quantity, torch.Tensor]
    _narrows = False
    _checked: Job | None = None

    def solve(self, job: Job) -> Solution:
        """Return the reference and the error E of each result; a tap in `job.given` replaces the layer's."""
        wide, levels = self._widened(job), rounding(job.dtype)
        values, errors = budget(lambda: self._tensors(wide), levels.u, U_ACC, levels.tiny)
        return {quantity: (values[quantity], errors[quantity]) for quantity in values}

    def exact(self, job: Job) -> dict[Quantity, np.ndarray]:
        """Return the reference alone."""
        wide = self._widened(job)
        return {quantity: tensor.numpy() for quantity, tensor in self._tensors(wide).items()}

    def perturbed(self, job: Job, seed: int) -> dict[Quantity, np.ndarray]:
        """Return one re-run with rounding noise."""
        wide, levels = self._widened(job), rounding(job.dtype)
        with RoundingNoise(levels.u, U_ACC, levels.tiny, torch.Generator().manual_seed(seed)):
            return {quantity: tensor.numpy() for quantity, tensor in self._tensors(wide).items()}

    def _widened(self, job: Job) -> Job:
        self._narrows = job.parameters != job.dtype
        return replace(job, dtype="float64", param_dtype="")

    def compute(self, job: Job) -> Computed:
        """Let what the layer makes within the call, a layer or a first state, be float64 as its inputs are."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return super().compute(job)
        finally:
            torch.set_default_dtype(before)

    def check_loaded(self, job: Job, weight_map: WeightMap, native: Mapping[str, Any]) -> None:
        """Check once: the re-runs of a job all load the same weights in the same way."""
        if self._checked is not job:
            super().check_loaded(job, weight_map, native)
            self._checked = job

    def load(self, job: Job) -> tuple[torch.nn.Module, WeightMap, Native]:
        """Round parameters that are wider than the dtype of the computation, in each noisy run too."""
        layer, weight_map, native = super().load(job)
        if self._narrows:
            with torch.no_grad():
                for name in weight_map.holding(job.weights):
                    native[name].mul_(1.0)  # gets the noise of one rounding
        return layer, weight_map, native

    def _tensors(self, job: Job) -> dict[Quantity, torch.Tensor]:
        self._backward = {}
        results = {q: torch.from_numpy(np.asarray(t.values)) for q, t in self.evaluate(job).items()}
        backward = {q: self._ordered(job, q.name, tensor).values for q, tensor in self._backward.items()}
        return {**results, **{quantity: torch.from_numpy(array) for quantity, array in backward.items()}}

    def recorder(self, job: Job, taps: Native) -> Recorder | None:
        """Keep each tap's value and gradient, and go on with those of `job.given` where it has them."""

        def record(name: str, value: torch.Tensor) -> torch.Tensor:
            taps[name] = value
            forward, backward = Quantity(Kind.TAP, name), Quantity(Kind.TAP_GRADIENT, name)
            if forward not in job.given and backward not in job.given:
                return value
            to_layout = self.to_layout(job, name)
            substitutes = [None if a is None else to_layout(a) for a in map(job.given.get, (forward, backward))]
            keep = partial(self._backward.setdefault, backward)
            substitute: torch.Tensor = _Substitute.apply(value, *substitutes, keep)
            return substitute

        return record if job.taps else None


class _Substitute(torch.autograd.Function):
    """Replaces a tap's value and its gradient by arrays, and keeps the gradient that arrives."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, instead: np.ndarray | None, gradient: np.ndarray | None, keep: Keep
    ) -> torch.Tensor:
        ctx.gradient, ctx.keep = gradient, keep
        return value.clone() if instead is None else _like(value, instead)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ctx.keep(gradient.detach().clone())  # of the first cotangent, the job's own; a second call keeps nothing
        return gradient if ctx.gradient is None else _like(gradient, ctx.gradient), None, None, None


def _like(tensor: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64, order="C")).reshape(tensor.shape)
