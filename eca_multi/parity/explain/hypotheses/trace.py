"""A trace of the reference: its operations between the taps, and the order in which it reads its weights and inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import torch

from eca_multi.parity.define.job import Job, float_inputs
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.engines._private_torch import tree_iter
from eca_multi.parity.execute.messages import ENTRIES
from eca_multi.parity.mutants.mode import ANY, Call, Mutating

GATE = "broadcast_mul"  # a product of two tensors of different shapes
READS = frozenset(("dim", "size", "numel", "is_floating_point", "__get__", "__len__", "stride", "is_contiguous"))


@dataclass
class Trace:
    """What one run of the reference calls.

    Attributes:
        operations: Names in the order of the calls.
        taps: Tap -> how many operations came before it.
        leaves: Weight or input -> the tensors that hold it.
        reads: Id of a tensor -> the first operation that reads the tensor.
        biases: Ids of the tensors that a convolution adds.
    """

    operations: list[str] = field(default_factory=list)
    taps: dict[str, int] = field(default_factory=dict)
    leaves: dict[tuple[Kind, str], list[torch.Tensor]] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    biases: set[int] = field(default_factory=set)

    def mode(self) -> Mutating:
        """Return the context that notes each operation and changes none."""
        return Mutating({ANY: self._note})

    def _note(self, call: Call) -> Any:
        if call.name not in READS:
            for value in tree_iter((call.args, dict(call.kwargs))):
                if isinstance(value, torch.Tensor):
                    self.reads.setdefault(id(value), len(self.operations))
            if call.name.startswith("conv") and (bias := call.argument(2, "bias")) is not None:
                self.biases.add(id(bias))
            self.operations.append(GATE if _is_gate(call) else call.name)
        return NotImplemented

    def stages(self, job: Job) -> dict[Quantity, tuple[str, ...]]:
        """Return the operations of each stage, in the order in which the stages are computed.

        A gradient's operations are those whose derivatives lead to it from the next tap.
        """
        found: dict[Quantity, tuple[str, ...]] = {}
        bounds = [0, *sorted({place for place in self.taps.values() if place}), len(self.operations)]
        for name, place in sorted(self.taps.items(), key=lambda item: item[1]):
            found[Quantity(Kind.TAP, name)] = self._between(max((b for b in bounds if b < place), default=0), place)
        begin = max((before for before, after in pairwise(bounds) if before < after), default=0)
        for kind, names in ((Kind.OUTPUT, job.outputs), (Kind.STATE, tuple(job.state))):
            found |= {Quantity(kind, name): self._between(begin, len(self.operations)) for name in names}
        for quantity, place in sorted(self._backward(job), key=lambda item: -item[1]):
            found[quantity] = self._between(place, min((b for b in bounds if b > place), default=len(self.operations)))
            if any(id(leaf) in self.biases for leaf in self.leaves.get((quantity.kind, quantity.name), ())):
                found[quantity] = (f"{found[quantity][0]}.bias", *found[quantity])  # "conv2d.bias": added, no kernel
        return found

    def _backward(self, job: Job) -> Iterator[tuple[Quantity, int]]:
        """Yield each gradient and the operation whose derivative completes it, weights first."""
        groups: Sequence[tuple[Kind, Sequence[str]]] = (
            (Kind.WEIGHT_GRADIENT, tuple(job.weights)),
            (Kind.INPUT_GRADIENT, float_inputs(job)),
        )
        for kind, names in groups[:1]:
            yield from ((Quantity(kind, name), self._first_read(kind, name)) for name in names)
        yield from ((Quantity(Kind.TAP_GRADIENT, name), place) for name, place in self.taps.items())
        for kind, names in groups[1:]:
            yield from ((Quantity(kind, name), self._first_read(kind, name)) for name in names)

    def _first_read(self, kind: Kind, name: str) -> int:
        return min((self.reads.get(id(leaf), 0) for leaf in self.leaves.get((kind, name), ())), default=0)

    def _between(self, first: int, last: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.operations[first:last]))


def _is_gate(call: Call) -> bool:
    shapes = [value.shape for value in call.args[:2] if isinstance(value, torch.Tensor)]
    return call.name == "mul" and len(shapes) == 2 and shapes[0] != shapes[1] and all(len(s) > 1 for s in shapes)


def plain(stages: Mapping[Quantity, tuple[str, ...]]) -> dict[str, str]:
    """Return stages for a message: the key of a quantity -> names of operations with blanks between them.

    Of a network with more stages than a message holds, the first ones.
    """
    return {quantity.key: " ".join(names) for quantity, names in islice(stages.items(), ENTRIES)}
