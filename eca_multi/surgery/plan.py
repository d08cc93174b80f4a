"""The record of a surgery: which tensors of a network ECA gates, with which kernels, and why others were left.

`plan_eca` of each framework makes a plan, `insert_eca` carries a plan out, and a plan goes to a file and back, so that
a network can be built again from the file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from eca_multi import __version__
from eca_multi._files.file import write_atomically
from eca_multi._parsing import parse_json, parsing
from eca_multi._printable import printable

from .causality import HOW, Evidence, texts
from .entry import ACTIONS, LAYOUTS, SKIPPED, ECAEntry, Skipped
from .plan_text import table

SCHEMA = 2
MOST_AXES = 64  # NumPy's; torch and XLA have no more
READABLE = (1, 2)  # the first had no axes and no evidence, which have defaults
# The types of those fields that hold no text, and the fields that hold any number of values.
_KINDS: dict[str, tuple[type, ...]] = {
    "channels": (int,), "kernel_size": (int,), "parameters": (int,), "calls": (int, type(None)),
    "keeps_output": (bool,), "gamma": (int, float), "beta": (int, float), "model_parameters": (int,), "schema": (int,),
    "entries": (ECAEntry,), "skipped": (Skipped,), "pool_axes": (int,), "causal_axis": (int, type(None)),
    "keep_causality": (bool,), "evidence": (Evidence,), "place": (int, type(None)), "rank": (int,),
}  # fmt: skip
_LISTS = ("aliases", "notes", "entries", "skipped", "evidence", "sites", "pool_axes")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ECAPlan:
    """What `insert_eca` will do, or what was done: plain data. Print a plan for a dry run.

    Two plans are equal if the same network comes out: `framework`, `model`, `gate`, `init` and the `entries` in any
    order. How the sites were found (`where`, `gamma`, `beta`, `skipped`, `notes`) does not count, so a plan that
    `infer_plan` or `installed_eca` reads back equals the plan that was carried out.

    Args:
        framework: "torch", "keras", "nnx" or "linen".
        model: Class name of the network.
        where: What was asked for; a list of paths or a callable is recorded as "paths" or "callable".
        gate, init, gamma, beta: As in the ECA layer.
        keep_causality: Whether `insert_eca` refuses ECAs that break what `evidence` shows.
        evidence: What shows that the network looks at no later position, or at one frame at a time.
        entries: The sites, in the network's own order.
        skipped: All other candidates: sites, and adds of two tensors, each with its place and its reason.
        model_parameters: Number of parameters of the network without these ECAs.
        notes: About the network as a whole.
        package: Version of eca_multi that made it; plans of other versions with the same `schema` are read alike.
        schema: Version of this record.

    Example:
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> from eca_multi.surgery.plan import ECAPlan
        >>> plan = ECAPlan("torch", "Net", entries=(ECAEntry("bn", channels=8, kernel_size=3, parameters=3),))
        >>> ECAPlan.from_json(plan.to_json()) == plan
        True
        >>> plan.parameters
        3
        >>> plan == ECAPlan("torch", "Net", where="paths", entries=plan.entries, notes=("read back",))
        True
    """

    framework: str
    model: str
    where: str = "residual"
    gate: str = "2sigmoid"
    init: str = "identity"
    gamma: float = 2
    beta: float = 1
    keep_causality: bool = True
    evidence: tuple[Evidence, ...] = ()
    entries: tuple[ECAEntry, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    model_parameters: int = 0
    notes: tuple[str, ...] = ()
    package: str = ""
    schema: int = SCHEMA

    def __eq__(self, other: object) -> bool:
        return self._stands == other._stands if isinstance(other, ECAPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._stands)

    @property
    def _stands(self) -> tuple[object, ...]:
        """What stands in the network once the plan is carried out."""
        return self.framework, self.model, self.gate, self.init, frozenset(self.entries)

    @property
    def parameters(self) -> int:
        """Number of new parameters."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def keeps_output(self) -> bool:
        """Whether the network's output is bit-equal right after insertion."""
        return all(entry.keeps_output for entry in self.entries)

    @property
    def paths(self) -> tuple[str, ...]:
        """The sites' paths."""
        return tuple(entry.path for entry in self.entries)

    @property
    def skipped_adds(self) -> tuple[Skipped, ...]:
        """Those of `skipped` that are adds: each with the module that adds, the line of code if known, the reason."""
        return tuple(skip for skip in self.skipped if skip.what == "add")

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ECAPlan":
        """Return the plan that `to_json` wrote.

        Raises:
            ValueError: If the text is no plan, or a plan of a later schema.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise _unreadable(f"not JSON ({error})") from None
        if not isinstance(data, dict):
            raise _unreadable(f"a JSON {type(data).__name__}")
        schema = data.get("schema")
        if type(schema) is int and schema > SCHEMA:
            raise _later(schema, data.get("package"))
        if type(schema) is not int or schema not in READABLE:
            raise _unreadable(f"schema {schema!r}")
        with parsing(partial(_unreadable, package=data.get("package"))):
            if "entries" not in data:
                raise ValueError("no entries")
            entries = tuple(_entry(entry) for entry in data.pop("entries"))
            skipped = tuple(_skipped(skip) for skip in data.pop("skipped", ()))
            evidence = tuple(_evidence(item) for item in data.pop("evidence", ()))
            notes = tuple(data.pop("notes", ()))
            lists = {"entries": entries, "skipped": skipped, "evidence": evidence, "notes": notes}
            return _check_fields(cls(**{**data, **lists, "schema": SCHEMA}), "")

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan as JSON: the whole file, or no change."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "ECAPlan":
        """Read a plan from a file that `save` wrote.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file holds no plan, or a plan of a later schema.
        """
        try:
            text = Path(path).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise _unreadable(f"not JSON ({error})") from None
        return cls.from_json(text)

    def __str__(self) -> str:
        options = f"where={self.where!r}, gate={self.gate!r}, init={self.init!r}"
        return table(
            f"ECA in {self.model} ({self.framework}), {options}",
            self.entries,
            self.skipped,
            (*self.notes, *texts(self.framework, self.entries, self.evidence, self.keep_causality)),
            model_parameters=self.model_parameters,
        )


def _entry(data: Mapping[str, Any]) -> ECAEntry:
    lists = {name: data.get(name, []) for name in ("aliases", "notes")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise ValueError("aliases and notes are no lists")
    if isinstance(data.get("pool_axes"), list):
        lists["pool_axes"] = data["pool_axes"]
    entry = ECAEntry(**{**data, **{name: tuple(value) for name, value in lists.items()}})
    _check_fields(entry, f" of {entry.path!r}")
    if entry.action not in ACTIONS or entry.layout not in LAYOUTS:
        raise ValueError(f"{entry.path!r} has action {entry.action!r} and layout {entry.layout!r}")
    return entry


def _evidence(data: Mapping[str, Any]) -> Evidence:
    if not isinstance(data.get("sites"), list):
        raise ValueError("the sites of the evidence are no list")
    evidence = _check_fields(Evidence(**{**data, "sites": tuple(data["sites"])}), " of the evidence")
    if evidence.how not in HOW:
        raise ValueError(f"the evidence is {evidence.how!r:.100}")
    if not 3 <= evidence.rank <= MOST_AXES or not 0 <= (evidence.place or 0) < evidence.rank - 2:
        raise ValueError(f"the evidence is of spatial axis {evidence.place} of rank {evidence.rank}")
    return evidence


def _skipped(data: Mapping[str, Any]) -> Skipped:
    skip = _check_fields(Skipped(**data), f" of {data.get('path')!r:.100}")
    if skip.what not in SKIPPED:
        raise ValueError(f"{skip.path!r:.100} is skipped as {skip.what!r:.100}")
    return skip


def _check_fields(record: T, of: str) -> T:
    """Check the types of a record's fields; a dataclass checks none."""
    for field in fields(record):  # type: ignore[arg-type]  # T is one of the three dataclasses
        value = getattr(record, field.name)
        kinds = _KINDS.get(field.name, (str,))
        if field.name == "pool_axes" and value is None:
            continue
        fits = all(type(item) in kinds for item in value) if isinstance(value, tuple) else type(value) in kinds
        if not fits or isinstance(value, tuple) != (field.name in _LISTS):
            raise ValueError(f"{field.name}{of} is {value!r:.100}")
    return record


def _later(schema: int, package: object) -> ValueError:
    return ValueError(
        f"plan must have schema {SCHEMA}, which eca_multi {__version__} reads. "
        f"Received: {printable(f'schema {schema}{_writer(package)}')}. Update eca_multi, or plan anew with plan_eca."
    )


def _unreadable(received: str, package: object = "") -> ValueError:
    writer, remedy = _writer(package), "Use that version, or plan anew with plan_eca."
    if not writer or package == __version__:
        writer, remedy = "", "Make it with ECAPlan.save."
    return ValueError(
        f"plan must be the JSON of an ECAPlan, schema {SCHEMA}. Received: {printable(f'{received}{writer}')}. {remedy}"
    )


def _writer(package: object) -> str:
    return f", written by eca_multi {package}" if isinstance(package, str) and package else ""
