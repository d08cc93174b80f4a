"""The type of a tensor of a comparison, and its label in reports, bundles and `--tensor`.

An output y, a tap gate and a state mean of a layer with input x and weight w give:

    Quantity(Kind.OUTPUT, "y")                            y
    Quantity(Kind.TAP, "gate")                            gate
    Quantity(Kind.STATE, "mean")                          new_mean       the state after the call
    Quantity(Kind.INPUT_GRADIENT, "x")                    dx             of sum(cotangent * output)
    Quantity(Kind.INPUT_GRADIENT, "x", Cotangent.ONES)    dx@ones        of sum(output)
    Quantity(Kind.WEIGHT_GRADIENT, "w", repeated=True)    dw@again       from a second run on the same data
    Quantity(Kind.TAP_GRADIENT, "gate")                   d_gate
    Quantity(Kind.STEP, "w")                              step.w         the weight after one step of training
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Kind(StrEnum):
    """The role of a tensor in the layer, or in its training."""

    OUTPUT = "output"
    TAP = "tap"
    STATE = "state"  # after the call
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"
    TAP_GRADIENT = "tap_gradient"
    STORED = "stored"  # a weight or state that was saved and loaded
    START = "start"  # weights from which single steps of training start, one for each step
    SLOT = "slot"  # the optimizer's states at each start
    STEP = "step"  # weights after one step from each start
    FREE = "free"  # weights at the marks of a run that goes on from its own weights
    BAND = "band"  # weights at the marks of the reference's runs with noise


class Cotangent(StrEnum):
    """The factor of the outputs, whose weighted sum is differentiated."""

    DRAWN = "drawn"  # the job's
    ONES = "ones"


_LABELS: Mapping[Kind, str] = {
    Kind.STATE: "new_",
    Kind.INPUT_GRADIENT: "d",
    Kind.WEIGHT_GRADIENT: "d",
    Kind.TAP_GRADIENT: "d_",
    Kind.START: "start.",
    Kind.SLOT: "slot.",
    Kind.STEP: "step.",
    Kind.FREE: "free.",
    Kind.BAND: "band.",
}


@dataclass(frozen=True)
class Quantity:
    """One tensor of a comparison, named after an output, tap, state, input or weight of the specification."""

    kind: Kind
    name: str  # of a slot, with the optimizer's state before it: "m.w"
    cotangent: Cotangent = Cotangent.DRAWN
    repeated: bool = False  # whether the tensor comes from a second run on the same data
    run: int = 0  # of a band, the number of the run with noise

    @property
    def label(self) -> str:
        """The name for people, of which a specification gives no two results the same."""
        ones = "@ones" if self.cotangent is Cotangent.ONES else ""
        return f"{_LABELS.get(self.kind, '')}{self.name}{ones}{'@again' if self.repeated else ''}"

    def __str__(self) -> str:
        return self.label

    @property
    def key(self) -> str:
        """The name in files between processes, which `parse` reads."""
        return f"{self.kind}/{self.cotangent}/{int(self.repeated)}/{self.run}/{self.name}"


def parse(key: str) -> Quantity:
    """Return the quantity with a key.

    Raises:
        ValueError: If no quantity has this key.

    Example:
        >>> parse("tap_gradient/drawn/0/0/gate").label
        'd_gate'
    """
    kind, cotangent, repeated, run, name = key.split("/", 4)
    return Quantity(Kind(kind), name, Cotangent(cotangent), bool(int(repeated)), int(run))


@dataclass(frozen=True)
class Tensor:
    """A result: its values, and the framework's name of its dtype."""

    values: np.ndarray
    dtype: str


Outputs = dict[Quantity, Tensor]
Solution = Mapping[Quantity, tuple[np.ndarray, np.ndarray]]  # the reference's values, each with its error


def labelled(results: Mapping[Quantity, T]) -> dict[str, T]:
    """Name results for people."""
    return {quantity.label: result for quantity, result in results.items()}
