"""Where a program's values come from and go to."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from .program import Equation, Program, Value

MOST = 40  # values that a search up or down looks at
_VIEWS = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "copy", "convert_element_type")


class Graph:
    """The producers and readers of a program's values, and the values of one run."""

    ELEMENTWISE: ClassVar[Sequence[str]] = (
        *("mul", "add", "sub", "div", "neg", "integer_pow", "pow", "square", "copy", "max", "min", "clamp", "select_n"),
        *("tanh", "logistic", "erf", "erfc", "exp", "expm1", "log1p", "abs", "convert_element_type", "add_any"),
    )

    def __init__(self, program: Program, values: dict[int, Any]) -> None:
        self.program, self.values = program, values
        self._makers, self._users = program.producers(), program.users()

    def maker(self, value: Any, *names: str) -> Equation | None:
        """Return the equation that makes a value, if it has one of these names."""
        equation = self._makers.get(value.number) if isinstance(value, Value) else None
        return equation if equation is not None and equation.name in names else None

    def plain(self, value: Any) -> Any:
        """Return what a value was before its shape was changed."""
        while (view := self.maker(value, *_VIEWS)) is not None:
            value = view.reads[0]
        return value

    def is_weight(self, value: Any) -> bool:
        """Return whether a value is a trained weight, in whatever shape."""
        return self.weight(value) is not None

    def weight(self, value: Any) -> Value | None:
        plain = self.plain(value)
        held = self.values.get(plain.number) if isinstance(plain, Value) else None
        return plain if isinstance(held, torch.nn.Parameter) else None

    def users(self, value: Value, *names: str) -> list[Equation]:
        return [equation for equation in self._users.get(value.number, ()) if not names or equation.name in names]

    def biases(self, value: Value) -> Iterator[tuple[Value, Value]]:
        """Yield each sum of a value and a weight of one axis or more, with the weight."""
        for equation in self.users(value, "add"):
            other = next((x for x in equation.reads if x is not value), None)
            weight = self.weight(other)
            if weight is not None:
                yield equation.makes[0], weight

    def above(self, value: Any, names: Sequence[str]) -> list[Value]:
        """Return a value and those that it comes from by operations of these names, the nearest first."""
        return self._walk(value, names, self._reads)

    def below(self, value: Any, names: Sequence[str]) -> list[Value]:
        """Return a value and those that come of it by operations of these names."""
        return self._walk(value, names, self._made)

    def _walk(self, start: Any, names: Sequence[str], step: Any) -> list[Value]:
        found: list[Value] = []
        waiting = [start]
        while waiting and len(found) < MOST:
            value = waiting.pop(0)
            if isinstance(value, Value) and all(value.number != known.number for known in found):
                found.append(value)
                waiting += step(value, names)
        return found

    def _reads(self, value: Value, names: Sequence[str]) -> list[Any]:
        equation = self.maker(value, *names)
        return list(equation.reads) if equation else []

    def _made(self, value: Value, names: Sequence[str]) -> list[Any]:
        return [made for equation in self.users(value, *names) for made in equation.makes]
