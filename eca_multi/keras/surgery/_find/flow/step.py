"""One call of an operation, as the rules see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eca_multi.keras.surgery._find.kinds import kind

Shape = Sequence[int | None]


@dataclass(frozen=True)
class Step:
    """One call of an operation: its path, the shapes of its inputs and outputs, and its arguments but the tensors."""

    operation: Any
    path: str
    inputs: Sequence[Shape]
    outputs: Sequence[Shape]
    args: Sequence[Any] = ()
    options: dict[str, Any] | None = None

    @property
    def rank(self) -> int:
        return len(self.inputs[0])

    def option(self, name: str, position: int | None = None) -> Any:
        """Return an argument of the call, else an attribute of the operation."""
        if name in (self.options or {}):
            return (self.options or {})[name]
        if position is not None and position < len(self.args):
            return self.args[position]
        return getattr(self.operation, name, None)

    def sign(self, words: str) -> str:
        return f"{kind(self.operation)} {self.path!r} {words}"


def known_as(operation: Any) -> str:
    """Return the name of the class of Keras whose `call` the operation runs; "" for code of a user's own."""
    for cls in type(operation).__mro__:
        if cls.__module__.startswith("keras."):
            return cls.__name__ if type(operation).call is getattr(cls, "call", None) else ""
    return ""


def spatial_index(step: Step, axis: int) -> int | None:
    """Return which of the spatial axes an axis is, None for the channels."""
    data_format = getattr(step.operation, "data_format", "channels_last")
    index = axis - 1 if data_format == "channels_last" else axis - 2
    return index if 0 <= index < step.rank - 2 else None
