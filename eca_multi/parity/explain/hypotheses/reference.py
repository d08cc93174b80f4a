"""A PyTorch reference in a worker: which operations its stages have, and the cause of a runner's failure."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.taps import Recorder
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.engines._private_torch import DisableTorchFunction
from eca_multi.parity.engines.base import Native
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.judge.compare import judge

from .search import name_causes
from .trace import Trace, plain

SECONDS = 15.0  # for the search, in which the worker says nothing
MOST = 8  # causes that a line can name
_FORWARD = (Kind.TAP, Kind.OUTPUT, Kind.STATE)


def explain(engine: Any, job: Job) -> tuple[dict[str, str], dict[str, float]]:
    """Return the operations of each stage by the stage's key, and the causes with their shares of the budget.

    Args:
        engine: The engine of a PyTorch adapter, as the reference or as a runner.
        job: With the taps, outputs, states and gradients of the runner as `given`: each stage is judged by what the
            reference makes of the runner's own taps.
    """
    watched = _Watched(engine)
    stages = watched.traced(job)
    known = watched.solve(job)
    c = SAFETY[watched.kind]
    found = {quantity: Tensor(array, job.dtype) for quantity, array in job.given.items()}
    failing = [
        quantity
        for quantity in stages
        if quantity in known
        and quantity in found
        and judge(found[quantity], *known[quantity], None, c).verdict.disagrees
    ]
    if not failing:
        return plain(stages), {}
    forward = failing[0].kind in _FORWARD
    asked = watched.widened(replace(job, gradients=not forward))
    causes = name_causes(
        lambda changes: watched.run(asked, changes), found, known, failing[0], dtype=job.dtype, c=c, seconds=SECONDS
    )
    return plain(stages), {cause.says: cause.share for cause in causes[:MOST]}


class _Watched(TorchReference):
    """The reference with a context around its layer, and none around the rest."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__(engine.adapter)
        self._layers = engine._layers
        self._changes: AbstractContextManager[Any] = nullcontext()
        self._trace: Trace | None = None

    def widened(self, job: Job) -> Job:
        return self._widened(job)

    def run(self, job: Job, changes: AbstractContextManager[Any]) -> dict[Quantity, torch.Tensor]:
        """Evaluate a widened job, the layer itself within `changes`."""
        self._changes = changes
        try:
            return self._tensors(job)
        finally:
            self._changes = nullcontext()

    def traced(self, job: Job) -> dict[Quantity, tuple[str, ...]]:
        self._trace = trace = Trace()
        try:
            self.run(self.widened(replace(job, gradients=False)), trace.mode())
        finally:
            self._trace = None
        return trace.stages(job)

    @contextmanager
    def precision(self, job: Job) -> Iterator[None]:
        with super().precision(job), self._changes:
            yield

    def recorder(self, job: Job, taps: Native) -> Recorder | None:
        record, trace = super().recorder(job, taps), self._trace
        if record is None:
            return None

        def noted(name: str, value: torch.Tensor) -> torch.Tensor:
            if trace is not None:
                trace.taps.setdefault(name, len(trace.operations))
            with DisableTorchFunction():  # a substitute for the tap is no operation of the layer
                return record(name, value)

        return noted

    def tensors(self, job: Job) -> dict[str, torch.Tensor]:
        tensors = super().tensors(job)
        if self._trace is not None:
            self._trace.leaves |= {(Kind.INPUT_GRADIENT, name): [tensor] for name, tensor in tensors.items()}
        return tensors

    def load(self, job: Job) -> Any:
        layer, weight_map, native = super().load(job)
        if self._trace is not None:
            held = {name: [native[other] for other in weight_map.holding([name])] for name in job.weights}
            self._trace.leaves |= {(Kind.WEIGHT_GRADIENT, name): tensors for name, tensors in held.items()}
        return layer, weight_map, native
