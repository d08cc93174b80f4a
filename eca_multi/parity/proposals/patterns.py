"""From a line for each weight to a line for all blocks: the numbers of names become holes of patterns."""

import re
from collections.abc import Mapping, Sequence

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.map_patterns import expand

_NUMBER = re.compile(r"\d+")
_HOLES = "ijklmn"
_PLACE = "\0"

Entry = tuple[str, str]
Entries = Mapping[str, str | None]


def compact(entries: Entries) -> dict[str, str | None]:
    """Return a map with patterns that names the same weights, and says the same of each.

    Example:
        >>> compact({f"b{i}.w": f"block.{i}.w: o i -> i o" for i in range(3)})
        {'b{i}.w': 'block.{i}.w: o i -> i o'}
    """
    groups: dict[tuple[bool, str, str, str], list[Entry]] = {}
    for native, text in entries.items():
        names, rest = _halves(text or "")
        key = (text is None, _NUMBER.sub(_PLACE, native), _NUMBER.sub(_PLACE, names), rest)
        groups.setdefault(key, []).append((native, text or ""))
    compacted: dict[str, str | None] = {}
    for (left_out, _, _, _), members in groups.items():
        for native, text in _patterns(members, list(entries), left_out):
            compacted[native] = None if left_out else text
    return compacted


def _patterns(members: Sequence[Entry], names: Sequence[str], left_out: bool) -> list[Entry]:
    """Return one pattern for all members, or else patterns for those that share their last number."""
    if len(members) == 1:
        return list(members)
    pattern = _pattern(members)
    if pattern is not None:
        key, text = pattern
        expected = {native: None if left_out else told for native, told in members}
        try:
            if expand({key: None if left_out else text}, names, (), "") == expected:
                return [pattern]
        except SpecError:
            pass
    numbers = [_NUMBER.findall(native) for native, _ in members]
    varying = [place for place in range(len(numbers[0])) if len({own[place] for own in numbers}) > 1]
    if not varying:
        return list(members)
    parts: dict[str, list[Entry]] = {}
    for own, member in zip(numbers, members, strict=True):
        parts.setdefault(own[varying[-1]], []).append(member)
    return [pattern for part in parts.values() for pattern in _patterns(part, names, left_out)]


def _pattern(members: Sequence[Entry]) -> Entry | None:
    natives = [[int(n) for n in _NUMBER.findall(native)] for native, _ in members]
    texts = [[int(n) for n in _NUMBER.findall(_halves(text)[0])] for _, text in members]
    holes: dict[int, str] = {}
    for place in range(len(natives[0])):
        if len({own[place] for own in natives}) > 1:
            holes[place] = _HOLES[len(holes) % len(_HOLES)]
    filled: dict[int, str] = {}
    for place in range(len(texts[0])):
        if len({own[place] for own in texts}) == 1:
            continue
        for source, hole in holes.items():
            shifts = {theirs[place] - ours[source] for ours, theirs in zip(natives, texts, strict=True)}
            if len(shifts) == 1:
                shift = shifts.pop()
                filled[place] = f"{{{hole}{f'{shift:+d}' if shift else ''}}}"
                break
        else:
            return None
    native, text = members[0]
    names, rest = _halves(text)
    return _with({place: f"{{{hole}}}" for place, hole in holes.items()}, native), _with(filled, names) + rest


def _with(holes: Mapping[int, str], text: str) -> str:
    numbers = iter(range(len(_NUMBER.findall(text))))
    return _NUMBER.sub(lambda number: holes.get(next(numbers), number[0]), text)


def _halves(text: str) -> tuple[str, str]:
    names, colon, rest = text.partition(":")
    return names, colon + rest
