"""Mutants: a specification's PyTorch layer with one fault, to measure which faults a case detects.

Some faults replace operations as the layer runs (mode.py), others change its weights and inputs (arrays.py). Either way
the gradients are those of the faulty layer. Nothing here is random.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from eca_multi.parity.define.axes import order, parse
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Outputs
from eca_multi.parity.engines.base import attempt
from eca_multi.parity.engines.torch import TorchEngine

from . import arrays as in_arrays
from .convolutions import PADDING_SHIFT, SKIPPED_CONVOLUTION
from .gates import DETACHED_GATE, OTHER_GATE
from .mode import ANY, Call, Change, Mutating
from .porting import PORTING
from .reductions import HALF_ACCUMULATION, N_MINUS_ONE, WRONG_AXIS, batch_leak


@dataclass(frozen=True)
class Mutant:
    """A fault in operations, by name; or in the arrays, if the layer calls none of the operations."""

    operations: Mapping[str, Change] | Callable[["MutatedEngine"], Mapping[str, Change]] | None = None
    arrays: in_arrays.Change | None = None


MUTANTS: dict[str, Mutant] = {
    "kernel flip": Mutant(arrays=in_arrays.kernel_flip),
    "padding shift": Mutant(PADDING_SHIFT),
    "skipped convolution": Mutant(SKIPPED_CONVOLUTION, in_arrays.delta_kernel),
    "other gate": Mutant(OTHER_GATE),
    "n-1 divisor": Mutant(N_MINUS_ONE),
    "detached gate": Mutant(DETACHED_GATE),
    "half-precision accumulation": Mutant(HALF_ACCUMULATION),
    "wrong axis": Mutant(WRONG_AXIS, in_arrays.exchanged_axes),
    "batch leak": Mutant(lambda engine: batch_leak(engine.batch_axes)),
    "transposed weight": Mutant(arrays=in_arrays.transposed_weight),
}


def mutants(engine: TorchEngine, job: Job) -> Iterator[tuple[str, Outputs | None]]:
    """Yield the name of each mutant with its results, or with None where it does not apply.

    A mutant does not apply where layer and data have no place for the fault, or where the layer raises because of the
    fault: a user notices an error without a verdict. A mutant that applies and returns the right results survives.
    """
    job = replace(job, compiled=False, twice=False)
    for name, mutant in MUTANTS.items():
        yield name, run(engine, job, mutant)


def ports(engine: TorchEngine, job: Job) -> Iterator[tuple[str, Outputs | None]]:
    """Yield "" with the right results, and the name of each fault of porting as `mutants` does.

    One evaluation lists the layer's operations; a fault that has none of them is not evaluated.

    Raises:
        Exception: Whatever the layer raises without a fault.
    """
    job = replace(job, compiled=False, twice=False)
    found: set[str] = set()

    def note(call: Call) -> Any:
        found.add(call.name)
        return NotImplemented

    yield "", MutatedEngine(engine, {ANY: note}).evaluate(job)
    for name, operations in PORTING.items():
        yield name, run(engine, job, Mutant(operations)) if found & set(operations) else None


def run(engine: TorchEngine, job: Job, mutant: Mutant) -> Outputs | None:
    """Return a mutant's results, or None where it does not apply."""
    if mutant.operations is not None:
        faulty = MutatedEngine(engine, mutant.operations)
        result = attempt(faulty.evaluate, job)
        if faulty.mode.applied:
            return None if isinstance(result, Exception) else result
        if isinstance(result, Exception):  # without a fault: the error is the layer's, or comes from these files
            raise result
    changed = mutant.arrays(job) if mutant.arrays is not None else None
    if changed is None:
        return None
    result = attempt(engine.evaluate, changed.job)
    return None if isinstance(result, Exception) else changed.back(result)


class MutatedEngine(TorchEngine):
    """An engine whose layers run with changed operations."""

    def __init__(self, engine: TorchEngine, changes: Any) -> None:
        super().__init__(engine.adapter)
        self._layers = engine._layers
        self.batch_axes: dict[int, int] = {}
        self.mode = Mutating(changes(self) if callable(changes) else changes)

    @contextmanager
    def precision(self, job: Job) -> Iterator[None]:
        """Change the operations of the layer, and none around it."""
        with super().precision(job), self.mode:
            yield

    def tensors(self, job: Job) -> dict[str, torch.Tensor]:
        """Remember by identity which axis of each input is the batch."""
        tensors = super().tensors(job)
        layout = self.adapter.layout_for(job.config)
        for name, tensor in tensors.items():
            axes = job.axes.get(name, ())
            native = axes if layout is None else order(axes, parse(layout))
            if tensor.is_floating_point() and "N" in native:
                self.batch_axes[id(tensor)] = native.index("N")
        return tensors
