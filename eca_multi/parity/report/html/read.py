"""Reading a report that may lack any key, and the order in which its parts are shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

DTYPES = ("float64", "float32", "bfloat16", "float16")
CHECKS = (
    "forward",
    "input_grad",
    "weight_grad",
    "compiled",
    "mixed",
    "roundtrip",
    "trajectory",
    "determinism",
    "nonfinite",
    "taps",
    "power",
)
_MOST = 1e300  # JSON may hold any integer, and charts go on to the next power of ten


def rows(source: Row, key: str) -> list[Row]:
    """The mappings in a list; none where there is no list."""
    return [row for row in sequence(source, key) if isinstance(row, Mapping)]


def sequence(source: Row, key: str) -> Sequence[Any]:
    value = source.get(key)
    return value if isinstance(value, list | tuple) else []


def mapping(source: Row, key: str) -> Row:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def text(source: Row, key: str) -> str:
    value = source.get(key)
    return "" if value is None else str(value)


def finite(value: object) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MOST <= value <= _MOST:
        return None
    return float(value)


def number(source: Row, key: str) -> float | None:
    return finite(source.get(key))


def numbers(source: Row, key: str) -> list[float | None]:
    return [finite(value) for value in sequence(source, key)]


def runner_names(report: Row) -> list[str]:
    """The runners in the order in which they were asked for, then any others that have results."""
    named = [text(runner, "name") for runner in rows(report, "runners")]
    others = {text(row, "runner") for row in rows(report, "results")}
    return list(dict.fromkeys([*named, *sorted(others)]))


def case_order(report: Row) -> Callable[[str], tuple[int, str]]:
    """A sort key: cases in the order of the report, unknown ones after them by name."""
    return ranking([text(case, "name") for case in rows(report, "cases")])


def ranking(known: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    """A sort key: known names in the given order, then the others by name."""
    ranks = {name: rank for rank, name in enumerate(known)}
    return lambda name: (ranks.get(name, len(ranks)), name)


def in_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return sorted(set(names), key=ranking(known))
