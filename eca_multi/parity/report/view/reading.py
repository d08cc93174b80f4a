"""Reading of a report's JSON, in which any key may be missing and any value may be of another kind."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

Row = Mapping[str, Any]
Record = TypeVar("Record")

_LARGEST = 1e300  # JSON may hold any integer, and charts go on to the next power of ten


def read(kind: type[Record], row: Row, **derived: Any) -> Record:
    """Return a dataclass whose fields are those of the JSON, each read by its type, but for those that are derived."""
    readers: dict[Any, Callable[[Row, str], Any]] = {
        str: text, float | None: number, tuple[str, ...]: names, dict[str, str]: mapping, dict[str, Any]: mapping,
    }  # fmt: skip
    declared = ((field.name, readers.get(field.type)) for field in fields(kind))  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: reader(row, name) for name, reader in declared if reader and name not in derived}, **derived)


def rows(source: Row, key: str) -> list[Row]:
    """Return the mappings in a list; none where there is no list."""
    return [row for row in sequence(source, key) if isinstance(row, Mapping)]


def sequence(source: Row, key: str) -> Sequence[Any]:
    value = source.get(key)
    return value if isinstance(value, list | tuple) else []


def names(source: Row, key: str) -> tuple[str, ...]:
    return tuple(sorted(map(str, sequence(source, key))))


def mapping(source: Row, key: str) -> Row:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def text(source: Row, key: str) -> str:
    value = source.get(key)
    return "" if value is None else str(value)


def finite(value: object) -> float | None:
    """Return a number that a chart can hold, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        return None
    return float(value)


def number(source: Row, key: str) -> float | None:
    return finite(source.get(key))


def numbers(source: Row, key: str) -> list[float | None]:
    return [finite(value) for value in sequence(source, key)]


def ranking(known: Iterable[str]) -> Callable[[str], tuple[int, str]]:
    """Return a sort key: known names in the given order, then the others by name."""
    ranks = {name: rank for rank, name in enumerate(known)}
    return lambda name: (ranks.get(name, len(ranks)), name)


def in_order(names: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(names), key=ranking(known))
