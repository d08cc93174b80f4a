"""What running both models tells: which of several texts of a map carries marked weights to the same outputs.

Each open choice is decided by itself. The weights are drawn so that all other choices make no difference: a kernel
whose axes are open in another choice is symmetric, and weights that could change places are equal. The text by which
both models then return the same is the right one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.structures import flatten, restore
from eca_multi.parity.models import Model
from eca_multi.parity.models.alike import run_of
from eca_multi.parity.models.layouts import distance
from eca_multi.parity.models.orders import find_layouts

NEAR = 1e-3  # relative distance of outputs that agree in float32; a wrong map is off by 0.1 and more
_ROUNDS = 60  # of averaging; each halves what is left of a difference between two texts

Arrays = dict[str, np.ndarray]
Entries = Mapping[str, str | None]


@dataclass(frozen=True)
class Marks:
    """Two models to run on one input."""

    reference: Model
    port: Model
    inputs: Any

    def map_of(self, entries: Entries) -> WeightMap:
        shapes = {name: array.shape for name, array in floats(self.reference).items()}
        return WeightMap.of(entries, shapes, {n: a.shape for n, a in self.port.weights().items()}, "the port")

    def fitting(self, entries: Entries, texts: Sequence[Entries], others: Sequence[Entries]) -> list[int]:
        """Return which texts make both models agree, with weights to which the other choices make no difference.

        Args:
            entries: The map so far.
            texts: The entries that each of the texts in question puts in its place.
            others: The entries of all other choices, each put in its place by itself.
        """
        drawn = self._drawn()
        first = self.map_of(entries)
        equal = [self.map_of({**entries, **other}) for other in others]
        for _ in range(_ROUNDS if equal else 0):
            for other in equal:
                back = first.to_canonical(other.to_native(drawn))
                drawn = {name: (array + back[name]) / 2 for name, array in drawn.items()}
        return [
            number
            for number, text in enumerate(texts)
            if self._distance(drawn, self.map_of({**entries, **text})) < NEAR
        ]

    def agree(self, entries: Entries) -> bool:
        """Whether both models return the same under a map, with weights of no symmetry."""
        return self._distance(self._drawn(), self.map_of(entries)) < NEAR

    def _distance(self, drawn: Arrays, weights: WeightMap) -> float:
        reference = self.reference.with_weights(drawn)
        arrays = flatten("x", self.inputs)
        outputs = run_of("the reference", reference, self.inputs, "float32").outputs
        port = self.port.with_weights(weights.to_native(drawn))
        try:
            found = find_layouts(port, self.inputs, arrays, outputs, "float32", None)
        except SpecError:
            return float("inf")
        from_port = run_of("the port", port, self._moved(found, arrays), "float32").outputs
        return max(
            (distance(found.to_reference(n, from_port[found.names[n]]), value) for n, value in outputs.items()),
            default=float("inf"),
        )

    def _moved(self, found: Any, arrays: Arrays) -> Any:
        return restore("x", self.inputs, {name: found.to_port(name, array) for name, array in arrays.items()})

    def _drawn(self) -> Arrays:
        """Draw weights of no symmetry, none of them near zero or so large that a layer saturates."""
        rng = np.random.default_rng(0)
        drawn = {}
        for name, array in floats(self.reference).items():
            values = rng.normal(size=array.shape)
            if array.ndim < 2:  # scales and variances must be positive
                drawn[name] = (1 + 0.5 * np.tanh(values)).astype(np.float32)
            else:
                drawn[name] = (values / np.sqrt(max(array.size / max(array.shape), 1))).astype(np.float32)
        return drawn


def floats(model: Model) -> Arrays:
    return {name: array for name, array in model.weights().items() if array.dtype.kind == "f"}
