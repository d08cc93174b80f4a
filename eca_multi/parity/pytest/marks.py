"""The cells that a `pytest.mark.parity` asks for, found without drawing data, starting workers or importing layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from eca_multi.parity.define.checks import DEFAULT_CHECKS, TESTED, check_names
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.runners import UsageError, find_runners
from eca_multi.parity.define.spec import Case, Spec
from eca_multi.parity.specs import SHIPPED, find_spec

Place = tuple[str, str, str]  # case, dtype, check


@dataclass(frozen=True)
class ParityCase:
    """The cell of one test: a runner, a case, a dtype and a check of a specification.

    `source` and `argument` are the command line's names for the specification ("" without one) and for the runner.
    """

    runner: str
    case: str
    dtype: str
    check: str
    spec: Spec = field(repr=False, compare=False)
    source: str = field(default="", repr=False, compare=False)
    argument: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.runner}-{self.case}-{self.dtype}-{self.check}"

    @property
    def place(self) -> Place:
        return self.case, self.dtype, self.check


def cells_of_mark(
    spec: Spec | str,
    runners: Sequence[str] | str | None = None,
    dtypes: Sequence[str] | str | None = None,
    cases: Sequence[str] | str | None = None,
    checks: Sequence[str] | str | None = None,
    *,
    module: ModuleType,
) -> list[ParityCase]:
    """Return the cells of a mark with these arguments; paths are relative to the file of the test's module.

    Raises SpecError if there is no such specification, or a name is unknown (UsageError).
    """
    folder = Path(str(module.__file__)).parent
    parsed, source = _find(spec, folder, module)
    names = [_absolute(name, folder) for name in _names(runners) or ()]
    files = [name for name in names if ".py:" in name]
    chosen = find_runners(parsed, None if runners is None else names)
    arguments = {runner.name: file for file in files for runner in find_runners(parsed, [file])}
    wanted = check_names("check", None if checks in (None, "all") else _names(checks), TESTED)
    kinds = check_names("dtype", parsed.dtypes if dtypes is None else _names(dtypes), list(DTYPES))
    known = check_names("case", _names(cases), [case.name for case in parsed.cases])
    cells = []
    for runner in chosen:
        compared = [c for c in wanted if c in DEFAULT_CHECKS and c not in runner.slow] if checks is None else wanted
        tasks = comparable(parsed, known, kinds, compared)
        for place in [(case, dtype, check) for case in known for dtype in kinds for check in compared]:
            if place in tasks:
                cells.append(ParityCase(runner.name, *place, parsed, source, arguments.get(runner.name, runner.name)))
    if not cells:
        raise UsageError(f"a mark must ask for what {parsed.name} compares. Received: {checks=}, {dtypes=}, {cases=}.")
    return cells


def comparable(
    spec: Spec, cases: Collection[str], dtypes: Collection[str], checks: Collection[str]
) -> set[tuple[str, str, str]]:
    """Return the (case, dtype, check) of a product for which the run makes a task, without drawing the data."""
    chosen = [case for case in spec.cases if case.name in cases]
    spoilt = next((case for case in chosen if case.draw is None), chosen[0]) if chosen else None

    def is_made(case: Case, dtype: str, check: str) -> bool:
        weights = bool(spec.weights or case.weights)
        trained = spec.training.cases if spec.training else None
        made = {
            "weight_grad": weights,
            "taps": bool(spec.taps),
            "roundtrip": weights,
            "trajectory": weights and (trained is None or case.name in trained),
            "mixed": dtype != "float32",
            "nonfinite": case is spoilt,
        }
        return made.get(check, True)

    return {(case.name, d, c) for case in chosen for d in dtypes for c in checks if is_made(case, d, c)}


def is_named(runner: str, names: Collection[str]) -> bool:
    """Whether a list of runners means this one; "keras" means all three."""
    return runner in names or ("keras" in names and runner.startswith("keras-"))


def blocks(spec: Spec, wanted: Collection[Place]) -> list[tuple[set[str], set[str], set[str]]]:
    """Cover the wanted cells by few products of cases, dtypes and checks, none with an unwanted cell."""
    rest = set(wanted)
    products: list[tuple[set[str], set[str], set[str]]] = []
    for place in sorted(rest):
        case, dtype, check = place
        if any(_covers(block, place) for block in products):
            continue
        for number, (cases, dtypes, checks) in enumerate(products):
            larger = cases | {case}, dtypes | {dtype}, checks | {check}
            if comparable(spec, *larger) == {other for other in rest if _covers(larger, other)}:
                products[number] = larger
                break
        else:
            products.append(({case}, {dtype}, {check}))
    return products


def _covers(block: tuple[set[str], set[str], set[str]], place: Place) -> bool:
    return all(name in names for name, names in zip(place, block, strict=True))


def _find(wanted: Any, folder: Path, module: ModuleType) -> tuple[Spec, str]:
    if isinstance(wanted, Spec):
        name = next((key for key, value in vars(module).items() if value is wanted), "")
        return wanted, f"{module.__file__}:{name}" if name else ""
    if not isinstance(wanted, str):
        kinds = f"a Spec, one of {', '.join(SHIPPED)}, or file.py:NAME"
        raise UsageError(f"spec must be {kinds}. Received: {wanted!r}.")
    return find_spec(wanted if wanted in SHIPPED else _absolute(wanted, folder))


def _absolute(name: str, folder: Path) -> str:
    """Return "file.py" and "file.py:NAME" as absolute paths beside the test; any other name as it is."""
    return str((folder / name).resolve()) if name.endswith(".py") or ".py:" in name else name


def _names(names: Sequence[str] | str | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else list(names)
