"""The calls of a model's submodules: what goes in, what comes out, and a given value in place of what goes in."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from eca_multi.parity.define.structures import leaves, rebuilt


@dataclass(frozen=True)
class Call:
    """One call of a submodule.

    Attributes:
        path: Of the submodule, in the framework's way: "layer1.0.conv1", "Block_0/Conv_0"; "" is the whole model.
        type: Name of its class.
        number: 0 for the first call of this submodule, 1 for the second.
        inputs, outputs: Its tensors by path; arguments are named "x0", "x1", and keywords by their names.
        gradients: Those that arrive at `outputs`, where the run took gradients.
    """

    path: str
    type: str
    number: int
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    gradients: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.number

    @property
    def name(self) -> str:
        """The path for people, with the number of a later call."""
        return (self.path or "the whole model") + (f" (call {self.number + 1})" if self.number else "")


@dataclass(frozen=True)
class Given:
    """Tensors of the framework, or arrays, that replace the inputs of one call.

    The call runs within `within`, a context that can be entered again.
    """

    key: tuple[str, int]
    inputs: Mapping[str, Any]
    within: AbstractContextManager[Any] = field(default_factory=nullcontext)


class Ended(BaseException):
    """The call with given inputs has returned. A BaseException, which code of a model does not catch."""


class Recorder:
    """Hears each call of a submodule.

    Args:
        keep: Gets the key, path and value of each tensor that a submodule returns, and gives back the tensor to go on
            with: a framework hangs the gradients there.
        given: The call whose inputs are replaced.
        convert: Turns a given array into a tensor like the one that it replaces.
        copy: Copies what goes into a submodule, where submodules may write into it.
    """

    def __init__(
        self,
        keep: Callable[[tuple[str, int], str, Any], Any] | None = None,
        given: Given | None = None,
        convert: Callable[[Any, Any], Any] = lambda array, like: array,
        copy: Callable[[Any], Any] = lambda tensor: tensor,
    ) -> None:
        self.calls: list[Call] = []
        self._keep, self._given, self._convert, self._copy = keep, given, convert, copy
        self._count: Counter[str] = Counter()

    def call(self, path: str, kind: str, function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
        """Call a submodule's function, and keep what went in and came out."""
        key = path, self._count[path]
        self._count[path] += 1
        is_given = self._given is not None and self._given.key == key
        if self._given is not None and is_given:
            arguments, keywords = self._replaced(arguments, keywords, self._given.inputs)
        entered = _tensors({**leaves("x", tuple(arguments)), **leaves("", keywords)})
        entered = {name: self._copy(tensor) for name, tensor in entered.items()}
        with self._given.within if self._given is not None and is_given else nullcontext():
            out = function(*arguments, **keywords)
        returned = _tensors(leaves("y", out))
        if self._keep is not None:
            keep = self._keep
            kept = {name: keep(key, name, tensor) for name, tensor in returned.items()}
            out = rebuilt("y", out, kept)
        self.calls.append(Call(*key[:1], kind, key[1], entered, returned))
        if is_given:
            raise Ended
        return out

    def _replaced(self, arguments: Any, keywords: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
        old = {**leaves("x", tuple(arguments)), **leaves("", keywords)}
        new = {name: self._convert(value, old[name]) for name, value in given.items() if name in old}
        return rebuilt("x", tuple(arguments), new), rebuilt("", dict(keywords), new)


def _tensors(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in named.items() if hasattr(leaf, "shape") and hasattr(leaf, "dtype")}
