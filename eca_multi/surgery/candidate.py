"""A place in a network where ECA could stand, as a framework describes it."""

from dataclasses import dataclass, field
from typing import Any

HAS_ECA = "already has ECA"


@dataclass(frozen=True)
class Candidate:
    """A place where ECA could stand.

    Args:
        path, action, module_type, tensor, channels, layout, into, aliases, calls, keeps_output, notes: As in
            `ECAEntry`; channels None where the number is not known.
        module: The framework's object, which is passed to a user's callables and never compared.
        reason: Why the place cannot be taken; "" if it can, HAS_ECA if an ECA stands there.
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
    reason: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)
