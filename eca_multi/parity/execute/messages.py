"""What a worker may say, and nothing else: from a line of its pipe to a message with a type, or to a fault.

A worker runs code that is not ours, so that nothing it writes is taken as it comes: kinds, names and numbers are
checked, texts are made printable and short. Where the tensors of an answer lie is known from the question.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from eca_multi._printable import printable

LONGEST = 4 << 20  # bytes of a line: the names of a large network's tensors for each of some 30 mutants are about 1 MiB
TEXT = 4096  # characters of any text that is kept
ENTRIES = 1000  # of versions, reasons or a fingerprint
KINDS = ("analytic", "stochastic", "manual", "")  # of budget; "" for what is no reference
_SHOWN = 200  # characters of a wrong message that are shown


@dataclass(frozen=True)
class Greeting:
    """The first message: who is there. `cannot` maps a check or dtype to the reason why the adapter has none."""

    versions: Mapping[str, str]
    budget: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrongAdapter:
    """Instead of a greeting: why there is no such adapter. The worker ends after it."""

    reason: str


@dataclass(frozen=True)
class Computed:
    """The tensors that were asked for lie in their file; `dtypes` says in which dtype each was computed."""

    id: int
    dtypes: Mapping[str, str]
    not_applicable: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """A fingerprint."""

    id: int
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """The adapter cannot do this, and says why."""

    id: int
    reason: str


@dataclass(frozen=True)
class Raised:
    """The adapter raised: the end of its traceback."""

    id: int
    text: str


@dataclass(frozen=True)
class Unwritten:
    """There is a result, and no room for it."""

    id: int
    reason: str


@dataclass(frozen=True)
class Done:
    """A list of requests has its answers."""


Answer: TypeAlias = Computed | Measured | Refused | Raised | Unwritten
Said: TypeAlias = Greeting | WrongAdapter | Answer | Done


class Malformed(ValueError):
    """A worker wrote what is no message of ours, or a file that does not hold what was asked for."""


def bounded(text: object, most: int = TEXT) -> str:
    """Return a text that can be shown: every character seen, and of a long one the beginning and the end."""
    whole = str(text)
    if len(whole) > most:
        head = most // 4
        whole = f"{whole[:head]} [... {len(whole) - most} characters left out ...] {whole[head - most :]}"
    return printable(whole, lines=True)


def parse(line: bytes, *, greeted: bool, asked: bool, open_ids: Collection[int]) -> Said:
    """Return what a line says.

    Args:
        line: From the worker's pipe.
        greeted: Whether the worker has said who it is, which comes first and once.
        asked: Whether it has a list of requests that is not done.
        open_ids: Those of them that it has not answered.

    Raises:
        Malformed: Saying what is wrong with it.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, too deep, a number of 10,000 digits
        raise Malformed(f"{type(error).__name__}: {_shown(error)}. Received: {_shown(line)}.") from error
    if not isinstance(content, dict):
        raise Malformed(f"a message must be an object. Received: {_shown(line)}.")
    kinds = [kind for kind in _MAKERS if kind in content]
    if len(kinds) != 1:
        raise Malformed(f"a message must have one of {', '.join(_MAKERS)}. Received: {_shown(line)}.")
    [kind] = kinds
    if greeted == (kind in ("versions", "wrong")):
        raise Malformed(f"the versions must come first, and once. Received: {_shown(line)}.")
    if kind == "done" and (open_ids or not asked):
        why = f"with {len(open_ids)} jobs open" if asked else "and was not asked"
        raise Malformed(f"it said that all is done, {why}")
    if kind in _ANSWERS and (type(content.get("id")) is not int or content["id"] not in open_ids):
        raise Malformed(f"id must be that of a job without an answer. Received: {_shown(content.get('id'))}.")
    return _MAKERS[kind](content)


def _greeting(content: Mapping[str, Any]) -> Greeting:
    budget = content.get("budget", "")
    if budget not in KINDS:
        raise Malformed(f"budget must be one of {', '.join(KINDS)}. Received: {_shown(budget)}.")
    return Greeting(_texts(content, "versions"), budget, _texts(content, "cannot") if "cannot" in content else {})


def _computed(content: Mapping[str, Any]) -> Computed:
    left_out, dtypes = content.get("not_applicable", []), content["dtypes"]
    if not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
        raise Malformed(f"not_applicable must be a list of texts. Received: {_shown(left_out)}.")
    if not isinstance(dtypes, dict) or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise Malformed(f"dtypes must map names to names. Received: {_shown(dtypes)}.")
    kinds = {name: bounded(dtype, _SHOWN) for name, dtype in dtypes.items()}  # by the names that the file has
    note = _text(content, "note") if "note" in content else ""
    return Computed(content["id"], kinds, tuple(bounded(name, _SHOWN) for name in left_out), note)


def _measured(content: Mapping[str, Any]) -> Measured:
    found = _table(content, "fingerprint")
    if wrong := next((value for value in found.values() if not isinstance(value, str | int | float)), None):
        raise Malformed(f"a fingerprint must hold texts and numbers. Received: {_shown(wrong)}.")
    return Measured(content["id"], {name: _fact(value) for name, value in found.items()})


def _fact(value: str | int | float) -> str | int | float:
    """A number as it is, if JSON can hold it and a line show it; all else as text."""
    is_plain = math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) < 2**63
    return value if is_plain else bounded(value, _SHOWN)


def _text(content: Mapping[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise Malformed(f"{name} must be a text. Received: {_shown(content[name])}.")
    return bounded(content[name])


def _texts(content: Mapping[str, Any], name: str) -> dict[str, str]:
    found = _table(content, name)
    if not all(isinstance(value, str) for value in found.values()):
        raise Malformed(f"{name} must hold texts. Received: {_shown(found)}.")
    return {key: bounded(value) for key, value in found.items()}


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content[name]
    if not isinstance(found, dict) or len(found) > ENTRIES:
        raise Malformed(f"{name} must be an object of at most {ENTRIES} entries. Received: {_shown(found)}.")
    return {bounded(key, _SHOWN): value for key, value in found.items()}


def _shown(thing: object) -> str:
    """A piece of what is wrong: of a line, not more of it than is needed."""
    text = thing[: 4 * _SHOWN].decode(errors="replace").strip() if isinstance(thing, bytes) else _short_repr(thing)
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _short_repr(thing: object) -> str:
    if isinstance(thing, int | float | str | Exception | None):
        return str(thing)[: 2 * _SHOWN]
    return f"a {type(thing).__name__} of {len(thing)}" if isinstance(thing, list | dict) else type(thing).__name__


_ANSWERS = ("dtypes", "fingerprint", "unsupported", "error", "unwritten")
_MAKERS: dict[str, Callable[[Mapping[str, Any]], Said]] = {
    "versions": _greeting,
    "wrong": lambda content: WrongAdapter(_text(content, "wrong")),
    "dtypes": _computed,
    "fingerprint": _measured,
    "unsupported": lambda content: Refused(content["id"], _text(content, "unsupported")),
    "error": lambda content: Raised(content["id"], _text(content, "error")),
    "unwritten": lambda content: Unwritten(content["id"], _text(content, "unwritten")),
    "done": lambda content: Done(),
}
