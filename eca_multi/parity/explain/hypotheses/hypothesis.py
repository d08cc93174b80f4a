"""A hypothesis: a fault that porters make, as a change to the operations of the reference while the reference runs."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eca_multi.parity.mutants.mode import Call, Change, Mutating


@dataclass(frozen=True)
class Seen:
    """A call of the reference as it is, but for reads of sizes, and the sum or norm that it returned."""

    call: Call
    result: Any = None


@dataclass(frozen=True)
class Hypothesis:
    """A fault, as changes by the name of an operation.

    Attributes:
        says: The end of "matches the reference if ...".
        operations: Name of a PyTorch operation -> its change, which returns the faulty result of a call, or
            NotImplemented where the call has no place for the fault. The change writes to no argument unless the
            operation itself does.
        dtypes: The dtypes in which the fault can occur; empty for all.
        planned: For a fault of several calls together: returns fresh changes for one run, from the calls of a run
            without changes. `operations` has the names alone.
    """

    says: str
    operations: Mapping[str, Any]
    dtypes: tuple[str, ...] = ()
    planned: Callable[[Sequence[Seen]], Mapping[str, Change]] | None = None

    def changes(self, seen: Sequence[Seen]) -> Mapping[str, Change]:
        """Return the changes for one run."""
        return self.operations if self.planned is None else self.planned(seen)


class Only:
    """Changes that apply to one call alone, by its number among the calls that they are about; None for all.

    `calls` names the operation of each of these calls.
    """

    def __init__(self, operations: Mapping[str, Change], number: int | None = None) -> None:
        self._number, self._count = number, itertools.count()
        self.calls: list[str] = []
        self.mode = Mutating({name: self._only(change) for name, change in operations.items()})

    def _only(self, change: Change) -> Change:
        def changed(call: Call) -> Any:
            self.calls.append(call.name)
            chosen = next(self._count) == self._number or self._number is None
            return change(call) if chosen else NotImplemented

        return changed


def on(names: tuple[str, ...], change: Change) -> dict[str, Change]:
    """Give several operations the same change."""
    return dict.fromkeys(names, change)


def with_argument(call: Call, index: int, name: str, value: Any) -> Any:
    """Call the operation with another value of one argument."""
    if len(call.args) > index:
        return call.func(*call.args[:index], value, *call.args[index + 1 :], **call.kwargs)
    return call.func(*call.args, **{**call.kwargs, name: value})


def setting(index: int, name: str, value: Any, default: Any = None) -> Change:
    """Return the change that gives an argument another value; a call that has this value has no place for the fault."""

    def change(call: Call) -> Any:
        if call.argument(index, name, default) == value:
            return NotImplemented
        return with_argument(call, index, name, value)

    return change


def is_weight(x: Any) -> bool:
    """Return whether x is a trained array itself, and not computed from one."""
    return isinstance(x, torch.nn.Parameter) and x.is_floating_point()


def is_input(x: Any) -> bool:
    """Return whether x is an array that the layer was called with."""
    return (
        isinstance(x, torch.Tensor)
        and x.is_floating_point()
        and x.is_leaf
        and x.requires_grad
        and not isinstance(x, torch.nn.Parameter)
    )


def numbers(call: Call) -> Iterator[tuple[int, float]]:
    """Yield the place and value of each number among the first two arguments of an operator."""
    for index, value in enumerate(call.args[:2]):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield index, float(value)
