"""The messages between the harness and a worker: dataclasses here, a line of JSON on the pipe between them.

A worker runs code that is not ours. So `parse` checks the kinds, names and numbers of each message of a worker, and
makes texts printable and short. Tensors travel in files, at the paths that the request names.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from eca_multi._printable import printable
from eca_multi.parity.define.job import Job, pack_job, unpack_job

LONGEST = 4 << 20  # bytes of a line: the names of a large network's tensors for each of some 30 mutants are about 1 MiB
TEXT = 4096  # characters of any text that is kept
ENTRIES = 1000  # of versions, reasons or a fingerprint
KINDS = ("analytic", "stochastic", "manual", "")  # of budget; "" for a runner that is no reference
_SHOWN = 200  # characters of a wrong message that are shown


class Do(StrEnum):
    """The jobs of a worker."""

    EVALUATE = "evaluate"
    ROUNDTRIP = "roundtrip"  # save and load
    TRAIN = "train"
    OUTPUTS = "outputs"  # evaluate in the reference: values alone
    SOLVE = "solve"  # evaluate in the reference: values, each with its error
    SOLVE_TRAINING = "solve_training"  # train in the reference
    POWER = "power"  # every mutant's evaluation
    SIGHT = "sight"  # that of every fault of porting
    FINGERPRINT = "fingerprint"
    EXPLAIN = "explain"  # the operations of each stage, and the causes of a failure


@dataclass(frozen=True)
class Request:
    """A request to a worker. The answer repeats its number, and the adapter may refuse its check."""

    id: int
    do: Do
    check: str = ""
    job: Job | None = None  # a fingerprint needs none
    inputs: Path = Path()  # the file with the arrays of the job
    out: Path = Path()  # the file for the tensors of the answer


@dataclass(frozen=True)
class Greeting:
    """A worker's first message. `cannot` maps a check or dtype to the reason why the adapter cannot do it."""

    versions: Mapping[str, str]
    budget: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrongAdapter:
    """A worker's first and last message instead: why there is no such adapter."""

    reason: str


@dataclass(frozen=True)
class Computed:
    """The tensors lie in the request's file; `dtypes` gives the dtype of each, by its name in the file."""

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
class Explained:
    """The operations of each stage by its key, in the order of the computation; and causes, each with a share."""

    id: int
    stages: Mapping[str, str]
    causes: Mapping[str, float]


@dataclass(frozen=True)
class Refused:
    """The adapter cannot do the job."""

    id: int
    reason: str


@dataclass(frozen=True)
class Raised:
    """The adapter raised: the end of its traceback."""

    id: int
    text: str


@dataclass(frozen=True)
class Unwritten:
    """The worker could not write the result, to a full disk for example."""

    id: int
    reason: str


@dataclass(frozen=True)
class Done:
    """All requests of a list have their answers."""


Tensorless: TypeAlias = Measured | Explained | Refused | Raised | Unwritten
Answer: TypeAlias = Computed | Tensorless
Said: TypeAlias = Greeting | WrongAdapter | Answer | Done


class Malformed(ValueError):
    """A worker wrote a line that is no message, or a file that does not hold the tensors of its message."""


def bounded(text: object, most: int = TEXT) -> str:
    """Return a printable text: with visible characters alone, and with the middle of a long text left out."""
    whole = str(text)
    if len(whole) > most:
        head = most // 4
        whole = f"{whole[:head]} [... {len(whole) - most} characters left out ...] {whole[head - most :]}"
    return printable(whole, lines=True)


def encode_requests(requests: Sequence[Request] | None) -> str:
    """Return the line that asks for a list of requests; None asks the worker to end."""
    if requests is None:
        return "null"
    plain = [{**vars(request), "job": request.job and pack_job(request.job)[0]} for request in requests]
    return json.dumps(plain, default=os.fspath)  # paths


def parse_requests(line: str) -> list[Request] | None:
    """Return the requests of a line, each job without its arrays."""
    asked = json.loads(line)
    for plain in asked or ():
        plain |= {name: Path(plain[name]) for name in ("inputs", "out")}
        plain |= {"do": Do(plain["do"]), "job": plain["job"] and unpack_job(plain["job"])}
    return asked and [Request(**plain) for plain in asked]


def encode(said: Said) -> str:
    """Return the line of a message."""
    names = _WIRE_NAMES.get(type(said), {})
    return json.dumps({"done": True} if isinstance(said, Done) else {names.get(k, k): v for k, v in vars(said).items()})


def parse(line: bytes, *, greeted: bool, asked: bool, open_ids: Collection[int]) -> Said:
    """Return the message of a line.

    Args:
        line: From the worker's pipe.
        greeted: Whether the worker has sent its greeting, which comes first and once.
        asked: Whether the worker has a list of requests that is not done.
        open_ids: The requests of that list that have no answer yet.

    Raises:
        Malformed: Saying what is wrong with the line.
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
    shown = {name: bounded(dtype, _SHOWN) for name, dtype in dtypes.items()}  # keep the file's names
    note = _text(content, "note") if "note" in content else ""
    return Computed(content["id"], shown, tuple(bounded(name, _SHOWN) for name in left_out), note)


def _measured(content: Mapping[str, Any]) -> Measured:
    facts = _table(content, "fingerprint")
    if wrong := next((value for value in facts.values() if not isinstance(value, str | int | float)), None):
        raise Malformed(f"a fingerprint must hold texts and numbers. Received: {_shown(wrong)}.")
    return Measured(content["id"], {name: _fact(value) for name, value in facts.items()})


def _explained(content: Mapping[str, Any]) -> Explained:
    causes = _table(content, "causes")
    if not all(isinstance(share, float | int) and math.isfinite(share) for share in causes.values()):
        raise Malformed(f"causes must map texts to finite numbers. Received: {_shown(causes)}.")
    stages = _texts(content, "stages") if "stages" in content else {}
    return Explained(content["id"], stages, {says: float(share) for says, share in causes.items()})


def _fact(value: str | int | float) -> str | int | float:
    """Keep a number that JSON can hold and a line can show; turn all else into text."""
    is_plain = math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) < 2**63
    return value if is_plain else bounded(value, _SHOWN)


def _text(content: Mapping[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise Malformed(f"{name} must be a text. Received: {_shown(content[name])}.")
    return bounded(content[name])


def _texts(content: Mapping[str, Any], name: str) -> dict[str, str]:
    table = _table(content, name)
    if not all(isinstance(value, str) for value in table.values()):
        raise Malformed(f"{name} must hold texts. Received: {_shown(table)}.")
    return {key: bounded(value) for key, value in table.items()}


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content[name]
    if not isinstance(table, dict) or len(table) > ENTRIES:
        raise Malformed(f"{name} must be an object of at most {ENTRIES} entries. Received: {_shown(table)}.")
    return {bounded(key, _SHOWN): value for key, value in table.items()}


def _shown(thing: object) -> str:
    """Show the beginning of a line or value."""
    if isinstance(thing, bytes):
        text = thing[: 4 * _SHOWN].decode(errors="replace").strip()
    elif isinstance(thing, list | dict):
        text = f"a {type(thing).__name__} of {len(thing)}"
    else:
        text = str(thing)[: 2 * _SHOWN]
    return printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


# On the pipe one field tells a message from all others; these fields have another name there.
_WIRE_NAMES: Mapping[type, Mapping[str, str]] = {
    WrongAdapter: {"reason": "wrong"},
    Refused: {"reason": "unsupported"},
    Raised: {"text": "error"},
    Unwritten: {"reason": "unwritten"},
}
_ANSWERS = ("dtypes", "fingerprint", "causes", "unsupported", "error", "unwritten")
_MAKERS: dict[str, Callable[[Mapping[str, Any]], Said]] = {
    "versions": _greeting,
    "wrong": lambda content: WrongAdapter(_text(content, "wrong")),
    "dtypes": _computed,
    "fingerprint": _measured,
    "causes": _explained,
    "unsupported": lambda content: Refused(content["id"], _text(content, "unsupported")),
    "error": lambda content: Raised(content["id"], _text(content, "error")),
    "unwritten": lambda content: Unwritten(content["id"], _text(content, "unwritten")),
    "done": lambda content: Done(),
}
