"""Whose fault a red tensor is: the port's own, or the rounding of the framework below it.

A red tensor in half precision is ROUNDING, and not the port's fault, only if all of these hold:

1. The port is right in float32: in the same case this tensor is green there, and nothing of the port's is red. The
   formula is right then, and what is off depends on the dtype.
2. Somebody whose formula is not the port's has the same error: a port on another framework, or the reference's own
   layer, run in that dtype. The error is shared if the port's is at most c times as large: the other's error takes the
   place of E. Or else a probe of the framework's own operation, without the port's code, has shown the fact that
   explains it (known.py), and the error is smaller than the tensor itself.

Two ports on one framework do not excuse each other: one author may have made one mistake in both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from eca_multi.parity.define.checks import BASE

from .cell import Cell
from .compare import Verdict
from .known import explained_by, known_about

NAMES = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX", "numpy": "NumPy"}
HALVES = ("bfloat16", "float16")
CHECKS = (*BASE, "compiled", "mixed", "taps", "trajectory")  # in which rounding is judged
OWN = "the reference's own layer"
UNTOLD = "run float32 too: without it nobody can tell whether this is the framework's rounding"

Place: TypeAlias = tuple[str, str, str, str]  # case, dtype, check, tensor


@dataclass(frozen=True)
class Witnesses:
    """What the cells of a run are compared with.

    Attributes:
        c: The safety factor of the run's budget.
        frameworks: Runner -> the framework that computes: torch, tensorflow, jax or numpy; "" where it is unknown.
        own: The cells of the reference's own layer, by place. Its framework is `own_framework`.
        axes: Place -> how many axes the weight has whose gradient stands there; other tensors are not in it.
        operation: Called with a place; returns the operation that reads its weight in the reference, or, for an output
            or an input's gradient, the only operation that the reference has; "" where there is none.
        fingerprint: Called with a runner's name; returns the probes of its framework, measured in this run.
        excuses: Whether anything may become ROUNDING.
    """

    c: float
    frameworks: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[Place, Cell] = field(default_factory=dict)
    own_framework: str = ""
    axes: Mapping[Place, int] = field(default_factory=dict)
    operation: Callable[[Place], str] = lambda place: ""
    fingerprint: Callable[[str], Mapping[str, object]] = lambda runner: {}
    excuses: bool = True


def place(cell: Cell) -> Place:
    return cell.case, cell.dtype, cell.check, cell.tensor


def excusable(cells: Sequence[Cell]) -> list[Cell]:
    """Return the red cells of which the port's own results allow that they are rounding: those that meet rule 1."""
    wrong = {(c.runner, c.case) for c in cells if c.dtype == "float32" and (c.verdict.disagrees or _raised(c))}
    right = {(c.runner, c.case, c.tensor, c.check) for c in cells if c.dtype == "float32" and c.green}

    def is_right(cell: Cell) -> bool:
        same = (cell.check, *BASE) if cell.check in (*BASE, "compiled", "mixed") else (cell.check,)
        return any((cell.runner, cell.case, cell.tensor, check) in right for check in same)

    return [cell for cell in cells if _may_round(cell) and (cell.runner, cell.case) not in wrong and is_right(cell)]


def _may_round(cell: Cell) -> bool:
    """Whether a red cell is of the kind that rounding makes, whatever float32 says."""
    numbers = cell.verdict in (Verdict.EXCEEDS_BUDGET, Verdict.NONFINITE_MISMATCH)
    return numbers and cell.dtype in HALVES and cell.check in CHECKS


def blamed(cells: Sequence[Cell], witnesses: Witnesses) -> list[Cell]:
    """Return the cells, each red one with whose fault it is, and ROUNDING for its verdict where that is proved."""
    allowed = {id(cell) for cell in (excusable(cells) if witnesses.excuses else ())}
    red: dict[Place, list[Cell]] = {}
    for cell in cells:
        if cell.verdict.disagrees:
            red.setdefault(place(cell), []).append(cell)
    runners = {c.runner for c in cells if c.green or c.verdict.disagrees}
    in_float32 = {(c.runner, c.case) for c in cells if c.dtype == "float32"}
    mistaken = {(c.runner, c.case) for c in cells if c.dtype == "float32" and c.verdict.disagrees}

    def judged(cell: Cell) -> Cell:
        others = [other for other in red[place(cell)] if other.runner != cell.runner]
        if id(cell) in allowed:
            sharing = [other for other in others if id(other) in allowed and _is_other(cell, other, witnesses)]
            if reason := _shared(cell, sharing, witnesses) or _known(cell, witnesses):
                return replace(cell, judgement=replace(cell.judgement, verdict=Verdict.ROUNDING), blame=reason)
        fault = _own_fault(cell, others, runners, (cell.runner, cell.case) in mistaken)
        if witnesses.excuses and _may_round(cell) and (cell.runner, cell.case) not in in_float32:
            fault = "; ".join(filter(None, (fault, UNTOLD)))
        return replace(cell, blame=fault)

    return [judged(cell) if cell.verdict.disagrees else cell for cell in cells]


def _is_other(cell: Cell, other: Cell, witnesses: Witnesses) -> bool:
    """Whether two runners compute by different frameworks, both of them known."""
    frameworks = {witnesses.frameworks.get(runner, "") for runner in (cell.runner, other.runner)}
    return len(frameworks) == 2 and "" not in frameworks


def _shared(cell: Cell, others: Sequence[Cell], witnesses: Witnesses) -> str:
    """Name those who have the error too, among ports on other frameworks and the reference's own layer."""
    own = witnesses.own.get(place(cell))
    if own is not None and own.verdict.disagrees and _is_as_large(cell, own, witnesses.c):
        return f"rounding shared by {OWN} in {NAMES.get(witnesses.own_framework, 'its framework')}"
    sharing = {witnesses.frameworks[o.runner] for o in others if _is_as_large(cell, o, witnesses.c)}
    if not sharing:
        return ""
    names = sorted({witnesses.frameworks[cell.runner], *sharing}, key=list(NAMES).index)
    return f"rounding shared by {' and '.join(names)}"


def _is_as_large(cell: Cell, other: Cell, c: float) -> bool:
    """Whether another's error, times c, covers this one: infinities and NaN by the same in the other alone."""
    mine, its = cell.judgement.budget_use, other.judgement.budget_use
    if mine is None or its is None:
        return cell.verdict is other.verdict is Verdict.NONFINITE_MISMATCH
    return mine <= c * its


def _known(cell: Cell, witnesses: Witnesses) -> str:
    """Name the fact of the runner's framework that explains the error; "" where none does."""
    about = known_about(cell, witnesses.axes.get(place(cell)), lambda: witnesses.operation(place(cell)))
    facts = witnesses.fingerprint(cell.runner) if about else {}
    name = NAMES.get(witnesses.frameworks.get(cell.runner, ""), "the framework")
    return next((line for known in about if (line := explained_by(known, cell.dtype, facts, name))), "")


def _own_fault(cell: Cell, others: Sequence[Cell], runners: set[str], in_float32: bool) -> str:
    """Say who else is off at the place of a fault."""
    if others and {cell.runner, *(other.runner for other in others)} == runners and len(runners) > 2:
        return "every runner alike: look at the reference, the data and the weight maps first"
    if len(runners) < 2:  # nobody to compare with
        return ""
    also = f"{', '.join(sorted({other.runner for other in others}))} too" if others else "this port alone"
    return f"{also}, in float32 as well" if in_float32 and cell.dtype != "float32" else also


def _raised(cell: Cell) -> bool:
    return cell.verdict is Verdict.ERROR
