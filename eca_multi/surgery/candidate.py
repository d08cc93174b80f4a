"""The modules of a network, and the places where ECA could stand, as a framework describes them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from .entry import ECAEntry

HAS_ECA = "already has ECA"


@dataclass(frozen=True)
class Candidate:
    """A place where ECA could stand.

    The fields are those of `ECAEntry`, with channels None for an unknown number, and these:

    Args:
        module: The framework's object, which is passed to a user's callables and never compared.
        reason: Why the place cannot be taken; "" if it can, HAS_ECA if an ECA stands there.
        axis_reason: Why the channel axis cannot be told from what is known; "" if it is known. A user's `channel_axis`
            in `overrides` decides then.
        shape: The shape of the site's output in the run on example inputs; () if unknown.
        what, line: As in `Skipped`; an add without a branch is a candidate whose `path` names the module that adds.
    """

    path: str
    module: Any = field(default=None, compare=False, repr=False)
    action: str = "after"
    module_type: str = ""
    tensor: str = ""
    channels: int | None = None
    layout: str = "channels_first"
    into: str = ""
    aliases: tuple[str, ...] = ()
    calls: int | None = None
    keeps_output: bool = True
    notes: tuple[str, ...] = ()
    pool_axes: tuple[int, ...] | None = None
    causal_axis: int | None = None
    reason: str = ""
    axis_reason: str = ""
    shape: tuple[int, ...] = ()
    what: str = "site"
    line: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)

    @property
    def is_open(self) -> bool:
        """Whether an ECA can stand there, without more being said of the channel axis."""
        return not self.reason and not self.axis_reason

    def entry(self, **changes: Any) -> ECAEntry:
        """Return the line of a plan for this place, with other values for some fields."""
        values = {field.name: getattr(self, field.name) for field in fields(ECAEntry) if hasattr(self, field.name)}
        return ECAEntry(**(values | {"channels": self.channels or 0} | changes))


@dataclass(frozen=True, eq=False)
class Place:
    """A module and all its paths, the first path first."""

    path: str
    module: Any
    aliases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)


def by_module(paths: Iterable[tuple[str, Any]]) -> list[Place]:
    """Return each module once, from the modules by path."""
    names: dict[int, list[str]] = {}
    modules: dict[int, Any] = {}
    for path, module in paths:
        names.setdefault(id(module), []).append(path)
        modules[id(module)] = module
    return [Place(first, modules[key], tuple(rest)) for key, (first, *rest) in names.items()]
