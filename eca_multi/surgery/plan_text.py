"""The text of a printed plan: one aligned table, with one row for blocks that repeat."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod
from typing import TypeVar

from eca_multi._printable import printable

from .entry import ECAEntry, Skipped

HEAD = ("site", "", "type", "channels", "k", "calls", "gated tensor")
T = TypeVar("T")
NUMBER = re.compile(r"\d+")


def table(
    title: str, entries: Sequence[ECAEntry], skipped: Sequence[Skipped], notes: Sequence[str], *, model_parameters: int
) -> str:
    """Return the text of a plan: its title, a table of its entries, its notes and what it skips, and the totals."""
    lines = [title, ""]
    rows = [_row(group) for group in _groups(entries)]
    if rows:
        lines += [*_aligned([HEAD, *rows]), ""]
    lines += [f"note: {note}" for note in (*notes, *_notes(entries))]
    lines += [f"skipped: {paths}: {reason}" for paths, reason in by_reason(skipped)]
    lines.append(_totals(entries, model_parameters))
    return "\n".join(map(printable, lines))


def _groups(entries: Sequence[ECAEntry]) -> list[list[ECAEntry]]:
    """Group neighbours whose paths differ in numbers alone and that cover all combinations of these numbers."""

    def kind(entry: ECAEntry) -> tuple[object, ...]:
        words = (NUMBER.sub("#", text) for text in (entry.path, entry.tensor, entry.into))
        sizes = (entry.channels, entry.kernel_size, entry.calls, entry.layout, entry.notes, len(entry.aliases))
        return (*words, entry.action, entry.module_type, *sizes, entry.pool_axes, entry.causal_axis)

    return [part for _, group in groupby(entries, kind) for part in _grids(list(group), lambda entry: entry.path)]


def _grids(group: list[T], text: Callable[[T], str]) -> list[list[T]]:
    """Split a group that {1-2}.{0-1} would print with a path that the group lacks."""
    columns = list(zip(*(NUMBER.findall(text(item)) for item in group), strict=True))
    if len(group) == prod(len(set(column)) for column in columns):
        return [group]
    first = next((i for i, column in enumerate(columns) if len(set(column)) > 1), None)
    if first is None:  # a plan from a file may name a site twice
        return [group]
    parts = [list(part) for _, part in groupby(group, lambda item: NUMBER.findall(text(item))[first])]
    return [grid for part in parts for grid in (_grids(part, text) if len(parts) > 1 else [part])]


def _row(group: Sequence[ECAEntry]) -> tuple[str, ...]:
    first = group[0]
    times = f"x{len(group)}" if len(group) > 1 else ""
    calls = "" if first.calls is None else str(first.calls)
    sizes = (str(first.channels or "?"), str(first.kernel_size), calls)
    tensors = _merged([e.tensor for e in group]) + _over(first)
    return (_merged([e.path for e in group]), times, first.module_type, *sizes, tensors)


def _over(entry: ECAEntry) -> str:
    """Say over which axes an ECA averages where it does not average over all."""
    pooled = [] if entry.pool_axes is None else [f"mean over {', '.join(map(str, entry.pool_axes))}"]
    causal = [] if entry.causal_axis is None else [f"causal along {entry.causal_axis}"]
    return f" ({'; '.join(pooled + causal)})" if pooled + causal else ""


def _merged(texts: Sequence[str]) -> str:
    """Return one text for all: layer1.{0-2}.bn3."""
    columns = list(zip(*(NUMBER.findall(text) for text in texts), strict=True))
    ranges = iter([_range([int(number) for number in column], column) for column in columns])
    return NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(numbers: Sequence[int], written: Sequence[str]) -> str:
    distinct = sorted(set(numbers))
    if len(distinct) == 1:
        return written[0]
    if distinct == list(range(distinct[0], distinct[-1] + 1)):
        return f"{{{distinct[0]}-{distinct[-1]}}}"
    return f"{{{','.join(map(str, distinct))}}}"


def _notes(entries: Sequence[ECAEntry]) -> list[str]:
    """Each note once, with the sites that the note is about."""
    about: dict[str, list[str]] = {}
    for entry in entries:
        for alias in entry.aliases:
            about.setdefault(f"{entry.path} is also {alias}: one ECA for both", [])
        for note in entry.notes:
            about.setdefault(note, []).append(entry.path)
    return [f"{listed(paths)}: {note}" if paths else note for note, paths in about.items()]


def by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    """Return each reason once, behind the places that were skipped for that reason."""
    reasons: dict[str, list[str]] = {}
    for skip in skipped:
        reasons.setdefault(skip.reason, []).append(skip.where)
    return [(listed(paths), reason) for reason, paths in reasons.items()]


def listed(paths: Sequence[str], most: int = 4) -> str:
    once = list(dict.fromkeys(paths))  # a plan from a file may name a site twice
    kinds = [list(group) for _, group in groupby(once, lambda path: NUMBER.sub("#", path))]
    texts = [_merged(part) for group in kinds for part in _grids(group, str)]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _totals(entries: Sequence[ECAEntry], model_parameters: int) -> str:
    sites = f"{len(entries)} ECA{'' if len(entries) == 1 else 's'}"
    parameters = sum(entry.parameters for entry in entries)
    share = f" (+{100 * parameters / model_parameters:.2g} %)" if model_parameters else ""
    kept = "outputs stay bit-equal" if all(entry.keeps_output for entry in entries) else "outputs WILL CHANGE"
    return f"{sites}, {parameters} new parameters{share}; {kept} at the start."


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    rows = [tuple(map(printable, row)) for row in rows]  # before their widths are measured
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    right = {HEAD.index(name) for name in ("channels", "k", "calls")}
    return [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
