"""The adapters for PyTorch: eager, and compiled by inductor."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch._dynamo.utils import counters

from eca_multi._canonical import pack
from eca_multi.parity.jobs import Job, Outputs, Tensor, move_channels, restore_channels
from eca_multi.torch import ECA, from_canonical

from .base import Adapter

Call = tuple[ECA, torch.Tensor, torch.Tensor | None]
Forward = Callable[[list[Call]], list[torch.Tensor]]


def forward(calls: list[Call]) -> list[torch.Tensor]:
    return [layer(x, mask) for layer, x, mask in calls]


class TorchAdapter(Adapter):
    distributions = ("torch",)
    native_axis = 1

    def run(self, job: Job) -> Outputs:
        return self.run_together([job], forward)[0]

    def run_together(self, jobs: list[Job], forward: Forward) -> list[Outputs]:
        """Run several jobs as one graph, forwards and backwards."""
        calls = [self.build(job) for job in jobs]
        ys = forward(calls)
        cotangents = [self._native(job, "cotangent") for job in jobs]
        leaves = [x for _, x, _ in calls] + [layer.conv.weight for layer, _, _ in calls]
        grads = torch.autograd.grad(ys, leaves, cotangents)
        dxs, dws = grads[: len(jobs)], grads[len(jobs) :]
        return [self._outputs(*one) for one in zip(jobs, ys, dxs, dws, strict=True)]

    def build(self, job: Job) -> Call:
        layer = ECA(
            job.channels,
            job.kernel_size,
            shared=job.shared,
            channel_axis=self.axis(job),
            dtype=getattr(torch, job.dtype),
            **job.options,
        )
        from_canonical(layer, {"weight": job.arrays["weight"]})
        mask = torch.from_numpy(job.arrays["mask"]) if "mask" in job.arrays else None
        return layer, self._native(job, "x").requires_grad_(), mask

    def _native(self, job: Job, name: str) -> torch.Tensor:
        array = move_channels(job.arrays[name], self.axis(job))
        return torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, job.dtype))

    def _outputs(self, job: Job, y: torch.Tensor, dx: torch.Tensor, dw: torch.Tensor) -> Outputs:
        def result(t: torch.Tensor, convert: Callable[[np.ndarray], np.ndarray]) -> Tensor:
            return Tensor(convert(t.detach().float().numpy()), str(t.dtype).removeprefix("torch."))

        def channels_first(array: np.ndarray) -> np.ndarray:
            return restore_channels(array, self.axis(job))

        return {
            "y": result(y, channels_first),
            "dx": result(dx, channels_first),
            "dw": result(dw, lambda array: pack("torch", array)["weight"]),
        }


class TorchCompiledAdapter(TorchAdapter):
    """Compiles all structurally different jobs of a dtype as one graph, as a network with that many ECA layers would.

    A graph for each would spend minutes in the C++ compiler. Jobs that differ in their data alone take turns in the
    same place of the graph. If the whole graph fails, each job is compiled by itself, so that the fault has a name.
    """

    def run(self, job: Job) -> Outputs:
        return self.run_compiled([job], _compiled())[0]

    def run_compiled(self, jobs: list[Job], compiled: Forward) -> list[Outputs]:
        outputs = self.run_together(jobs, compiled)
        if not counters["stats"]["unique_graphs"]:
            raise RuntimeError("torch.compile compiled nothing and ran eagerly")
        return outputs

    def run_all(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outputs | str]]:
        for dtype in dict.fromkeys(job.dtype for job in jobs):
            places: dict[object, list[Job]] = {}
            for job in jobs:
                if job.dtype == dtype:
                    places.setdefault(job.structure, []).append(job)
            yield from self._run_graph(list(places.values()))

    def _run_graph(self, places: list[list[Job]]) -> Iterator[tuple[Job, Outputs | str]]:
        compiled = _compiled()
        for turn in range(max(map(len, places))):
            jobs = [place[min(turn, len(place) - 1)] for place in places]
            try:
                results: list[Outputs | str] = list(self.run_compiled(jobs, compiled))
            except Exception:
                results = [self.attempt(job) for job in jobs]
            for place, job, result in zip(places, jobs, results, strict=True):
                if turn < len(place):
                    yield job, result


def _compiled() -> Forward:
    counters.clear()
    torch.compiler.reset()  # else the limit of graphs per function would be reached, and the rest run eagerly
    return torch.compile(forward, fullgraph=True, dynamic=False)
