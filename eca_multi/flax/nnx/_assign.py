"""Assign new values to an nnx module's variables: all of them or none."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from flax import nnx

from eca_multi._undo import undone_on_error

Key = TypeVar("Key", bound=Hashable)
Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Bare:
    """An array that is an attribute of a module without a variable around it, with the methods of a variable."""

    model: nnx.Module
    path: tuple[Any, ...]
    value: Any

    def get_raw_value(self) -> Any:
        return self.value

    get_value = get_raw_value

    def set_raw_value(self, value: Any) -> None:
        nnx.update(self.model, nnx.from_flat_state([(self.path, value)]))

    set_value = set_raw_value


def assign(owner: Owner, targets: Mapping[Key, nnx.Variable | Bare], new: Mapping[Key, Any]) -> Owner:
    """Set all variables to the new values, or none, and return their owner."""
    undo: list[Any] = []
    with undone_on_error(undo):
        for key, value in new.items():
            undo.append(partial(targets[key].set_raw_value, targets[key].get_raw_value()))
            targets[key].set_value(value)
        return owner
