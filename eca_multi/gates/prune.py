"""Which ECAs do nothing: those whose gates stay near one number on the data, and what taking them out changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eca_multi._errors import _text
from eca_multi._printable import printable

from .layer import LayerGates

THRESHOLD = 1e-3


@dataclass(frozen=True)
class Change:
    """How much the network's outputs differ: the largest distance of any number, and as a share of the outputs' norm.

    Example:
        >>> from eca_multi.gates.prune import Change
        >>> str(Change(0.001, 0.0002))
        'largest 1.0e-03, relative 2.0e-04'
    """

    largest: float
    relative: float

    def __str__(self) -> str:
        return f"largest {self.largest:.1e}, relative {self.relative:.1e}"


@dataclass(frozen=True)
class Prunable:
    """One ECA whose gates stay near a constant.

    Args:
        path: Of the ECA, as in the record.
        inserted: Whether surgery put the ECA there, so that `remove_eca` can take it out.
        constant, deviation: All its gates lie within `deviation` of `constant`.
        removed: The change of the outputs where y = x: what `remove_eca` does.
        folded: The change where y = constant * x: of these two, what the gates' own variation does. Whoever folds the
            constant into the layer before the ECA gets this change.
    """

    path: str
    inserted: bool
    constant: float
    deviation: float
    removed: Change
    folded: Change


@dataclass(frozen=True)
class PrunePlan:
    """Which ECAs do nothing on the data, and the measured change of the outputs without them.

    Args:
        threshold: The largest deviation of a gate from the layer's constant.
        candidates: The ECAs within the threshold, in the network's order.
        together: The change of the outputs where all of `paths` are taken out at once.
        checked: How many ECAs the record has.

    Example:
        >>> import torch
        >>> from eca_multi.torch import insert_eca, prune_plan, record_gates, remove_eca
        >>> model, x = insert_eca(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), "conv"), torch.ones(2, 3, 5, 5)
        >>> with record_gates(model) as gates:
        ...     y = model(x)
        >>> plan = prune_plan(model, gates, example_inputs=x)
        >>> plan.paths, plan.together.largest
        (('0',), 0.0)
        >>> remove_eca(model, include=plan.paths)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """

    threshold: float
    candidates: tuple[Prunable, ...]
    together: Change
    checked: int

    @property
    def paths(self) -> tuple[str, ...]:
        """What `remove_eca(include=...)` takes: the inserted ones."""
        return tuple(one.path for one in self.candidates if one.inserted)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"paths": list(self.paths)}

    def __str__(self) -> str:
        within = f"within {self.threshold:g} of a constant"
        if not self.candidates:
            return f"No ECA of {self.checked} has gates {within}."
        lines = [f"{len(self.candidates)} of {self.checked} ECAs have gates {within}:"]
        for one in self.candidates:
            own = "" if one.inserted else " [of the network's own code: remove_eca leaves it]"
            lines.append(f"  {one.path}: {one.constant:.4f} +- {one.deviation:.1e}{own}")
            lines.append(f"    outputs without it: {one.removed}; with the constant instead: {one.folded}")
        lines.append(f"remove_eca(include=plan.paths) takes out {len(self.paths)}; outputs then: {self.together}")
        return "\n".join(printable(line) for line in lines)


def check_threshold(threshold: Any) -> float:
    is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    remedy = "The largest distance of a gate from a constant, for example 1e-3."
    if not is_number:
        raise TypeError(_text("threshold", "a number", f"threshold={threshold!r}", remedy))
    if not 0 <= threshold < np.inf:
        raise ValueError(_text("threshold", "a finite number >= 0", f"threshold={threshold!r}", remedy))
    return float(threshold)


def check_gates(gates: Mapping[str, LayerGates], paths: Sequence[str]) -> None:
    """Check that a record is one, and of this network."""
    remedy = "Pass what record_gates gave for this network."
    if not all(isinstance(layer, LayerGates) for layer in getattr(gates, "values", lambda: (None,))()):
        raise TypeError(_text("gates", "a record of gates", f"a {type(gates).__name__}", remedy))
    strange = [path for path in gates if path not in paths]
    if strange or not gates:
        received = f"{len(strange)} other paths, {strange[0]!r} among them" if strange else "an empty record"
        raise ValueError(_text("gates", "of ECAs of the network", received, remedy))


def no_inputs() -> ValueError:
    remedy = "The change of the outputs is measured on them."
    return ValueError(_text("example_inputs", "what the network is called with", "None", remedy))


def plan_pruning(
    gates: Mapping[str, LayerGates],
    inserted: Sequence[str],
    threshold: float,
    run: Callable[[Mapping[str, float]], list[np.ndarray]],
) -> PrunePlan:
    """Return the plan of a record.

    Args:
        gates: The record, checked.
        inserted: The paths of the ECAs that `remove_eca` can take out.
        run: Returns the network's outputs with some ECAs exchanged, each for a constant instead of its gate.
    """
    near = [layer for layer in gates.values() if layer.deviation <= threshold]  # a NaN is near nothing
    plain = run({}) if near else []
    candidates = tuple(
        Prunable(
            layer.path,
            layer.path in inserted,
            layer.constant,
            layer.deviation,
            _change(plain, run({layer.path: 1.0})),
            _change(plain, run({layer.path: layer.constant})),
        )
        for layer in near
    )
    all_out = {one.path: 1.0 for one in candidates if one.inserted}
    together = _change(plain, run(all_out)) if all_out else Change(0.0, 0.0)
    return PrunePlan(threshold, candidates, together, len(gates))


def _change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Change:
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(before, after, strict=True)]
    largest = max((float(np.abs(a - b).max(initial=0)) for a, b in pairs), default=0.0)
    norm = sum(float((a**2).sum()) for a, _ in pairs) ** 0.5
    moved = sum(float(((a - b) ** 2).sum()) for a, b in pairs) ** 0.5
    return Change(largest, moved / norm if norm else float(moved > 0))
