"""The states that a call has changed, such as the statistics of a batch norm in training mode: those of a port beside
those of its reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eca_multi.parity.define.dtypes import quantise, rounding
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.tensor import Kind, Quantity, Solution
from eca_multi.parity.models import Model

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class States:
    """Both models' states after the call, by the reference's names.

    Attributes:
        before: The reference's states before the call, of those that either model changes.
        results: The port's after the call.
        kept: The solution of those that the port alone changes: the reference's value, and one rounding.
        uncompared: Names of those that no map pairs or leaves out; the port's end in " of the port".
    """

    before: Arrays = field(default_factory=dict)
    results: Arrays = field(default_factory=dict)
    kept: Solution = field(default_factory=dict)
    uncompared: tuple[str, ...] = ()


def compare_states(
    ours: Model, theirs: Model, solution: Solution, changed: Arrays, weights: WeightMap | None, dtype: str
) -> States:
    """Pair the states that the reference's call changes, which `solution` holds, with those of the port."""
    mine = [quantity.name for quantity in solution if quantity.kind is Kind.STATE]
    if not mine and not changed:
        return States()
    if weights is None:
        return States(uncompared=(*mine, *(f"{name} of the port" for name in changed)))
    parts = {native: part for native, part in weights.parts.items() if not part.entry.load_only}
    told = {n for native, part in weights.parts.items() if native not in parts for n in (native, *part.entry.names)}
    held = {n: quantise(a, dtype) for n, a in theirs.weights().items() if n in parts and a.dtype.kind == "f"}
    after = weights.to_canonical({**held, **{n: a for n, a in changed.items() if n in parts}})
    moved = [name for native in changed if native in parts for name in parts[native].entry.names]
    names = [name for name in dict.fromkeys((*mine, *moved)) if name in after]
    before = {name: array for name, array in ours.weights().items() if name in names}
    levels = rounding(dtype)
    return States(
        before,
        {name: after[name] for name in names},
        {
            Quantity(Kind.STATE, name): (array.astype(np.float64), levels.u * np.abs(array) + levels.tiny)
            for name, array in before.items()
            if name not in mine
        },
        (
            *(name for name in mine if name not in after and name not in told),
            *(f"{name} of the port" for name in changed if name not in parts and name not in told),
        ),
    )
