"""Patterns of names: one entry of a map for the weights of all blocks.

`{i}` stands for a word (letters, digits, _) within one level of a name, and `{rest...}` for all levels that are left.
On the canonical side `{i}` is what it was on the native side, and `{i+1}` the number after it.
"""

import re
from collections.abc import Collection, Mapping

from .axes import SpecError
from .hints import did_you_mean, listed

Entries = Mapping[str, str | None]

_HOLE = re.compile(r"\{([A-Za-z_]\w*)(\.\.\.|[+-]\d+)?\}")
NAME = re.compile(r"(?:\{[^{}]*\}|[^\s+:{])+")  # of a canonical weight; "+" between names is a sum


def prefixed(entries: Entries, native: str, canonical: str = "") -> dict[str, str | None]:
    """Put prefixes before the names of a map, so that the map of a block becomes part of that of a network.

    Example:
        >>> prefixed({"fc.weight": "w: i o -> o i"}, native="blocks.{i}.", canonical="block{i}.")
        {'blocks.{i}.fc.weight': 'block{i}.w: i o -> o i'}
    """
    return {native + name: entry if entry is None else _behind(canonical, entry) for name, entry in entries.items()}


def expand(
    entries: Entries, native: Collection[str] | None, canonical: Collection[str], who: str
) -> dict[str, str | None]:
    """Replace each pattern by an entry for each name that it matches.

    Args:
        entries: Native name or pattern -> text.
        native: The names that the layer has; None if it has none of its own, and then the canonical names decide.
        canonical: The specification's names.
        who: Whose map it is, for the errors.

    Raises:
        SpecError: If a pattern matches nothing, or a name that another entry names too.
    """
    expanded: dict[str, str | None] = {}
    by: dict[str, str] = {}
    for key, text in entries.items():
        found = _matches(key, text, native, canonical) if "{" in key else {key: text}
        if not found:
            have = canonical if native is None else native
            raise SpecError(
                f"the pattern {key!r} of the weight map of {who} must match a name. It matches none of: {listed(have)}."
                f"{did_you_mean(key, have)}"
            )
        for name, entry in found.items():
            if name in by:
                raise SpecError(
                    f"the weight map of {who} must name {name!r} once. Received: {by[name]!r} and {key!r}, which both "
                    "match it."
                )
            by[name], expanded[name] = key, entry
    return expanded


def could_match(pattern: str, name: str) -> bool:
    """Whether a name is the one of an entry, or matches its pattern."""
    return bool(_regex(pattern).fullmatch(name)) if "{" in pattern else pattern == name


def _matches(
    key: str, text: str | None, native: Collection[str] | None, canonical: Collection[str]
) -> dict[str, str | None]:
    if native is not None:
        pairs = ((name, _regex(key).fullmatch(name)) for name in native)
        return {name: _filled(text, match.groupdict()) for name, match in pairs if match}
    first = NAME.search(text or "")
    found = [match for name in canonical if first and (match := _regex(first[0]).fullmatch(name))]
    values = [_before_shift(first[0], match) for match in found if first]
    return {str(_filled(key, value)): _filled(text, value) for value in values}


def _regex(pattern: str) -> re.Pattern[str]:
    parts, end, seen = [], 0, set()
    for hole in _HOLE.finditer(pattern):
        name, many = hole[1], hole[2] == "..."
        parts.append(re.escape(pattern[end : hole.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{'.+' if many else '[A-Za-z0-9_]+?'})")
        seen.add(name)
        end = hole.end()
    return re.compile("".join(parts) + re.escape(pattern[end:]))


def _before_shift(pattern: str, match: re.Match[str]) -> dict[str, str]:
    values = match.groupdict()
    for hole in _HOLE.finditer(pattern):
        if hole[2] not in (None, "...") and values[hole[1]].isdigit():
            values[hole[1]] = str(int(values[hole[1]]) - int(hole[2]))
    return values


def _filled(text: str | None, values: Mapping[str, str]) -> str | None:
    def fill(hole: re.Match[str]) -> str:
        value, shift = values.get(hole[1]), hole[2] or ""
        if value is None:
            raise SpecError(f"a pattern must have {hole[0]} on both sides. Received: {text!r}.")
        if shift in ("", "..."):
            return value
        if not value.isdigit():
            raise SpecError(f"{hole[0]} must stand for a number. Received: {value!r} in {text!r}.")
        return str(int(value) + int(shift))

    return None if text is None else _HOLE.sub(fill, text)


def _behind(prefix: str, entry: str) -> str:
    if entry.strip().startswith("="):
        return entry
    names, colon, rest = entry.partition(":")
    return NAME.sub(lambda name: prefix + name[0], names) + colon + rest
