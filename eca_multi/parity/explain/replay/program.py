"""A jaxpr as a flat list of equations between numbered values; calls of inner jaxprs are written out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

MOST_STEPS = 64  # of a loop that is written out
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Unknown(Exception):
    """The computation has a part that cannot be replayed."""


@dataclass(frozen=True)
class Value:
    """The number of a value, with its shape and dtype."""

    number: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class Equation:
    """A primitive's name and parameters, what it reads (values, and arrays that are known) and the values it makes."""

    name: str
    params: Mapping[str, Any]
    reads: tuple[Any, ...]
    makes: tuple[Value, ...]


@dataclass
class Program:
    """The equations of a computation.

    Attributes:
        arguments: The values that the computation gets, in order.
        equations: In the order of the computation.
        results: Values or arrays that it returns.
    """

    arguments: list[Value] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    def producers(self) -> dict[int, Equation]:
        return {value.number: equation for equation in self.equations for value in equation.makes}

    def users(self) -> dict[int, list[Equation]]:
        found: dict[int, list[Equation]] = {}
        for equation in self.equations:
            for value in equation.reads:
                if isinstance(value, Value):
                    found.setdefault(value.number, []).append(equation)
        return found

    def without_dead(self) -> "Program":
        """Return the program without equations whose values nobody reads."""
        read = {value.number for value in self.results if isinstance(value, Value)}
        kept = []
        for equation in reversed(self.equations):
            if any(value.number in read for value in equation.makes):
                kept.append(equation)
                read |= {value.number for value in equation.reads if isinstance(value, Value)}
        return Program(self.arguments, kept[::-1], self.results)


def traced(function: Callable[..., Sequence[Any]], arguments: Sequence[Any]) -> Program:
    """Trace a function of arrays that returns a list of arrays.

    Raises:
        Unknown: If the function has a branch, or a loop without a fixed number of steps.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    return _Flattened().of(closed)


class _Flattened:
    def __init__(self) -> None:
        self.program, self._count = Program(), 0

    def of(self, closed: ClosedJaxpr) -> Program:
        self.program.arguments = [self._new(variable.aval) for variable in closed.jaxpr.invars]
        self.program.results = self._inline(closed.jaxpr, closed.consts, self.program.arguments)
        return self.program.without_dead()

    def _new(self, aval: Any) -> Value:
        self._count += 1
        return Value(self._count, tuple(aval.shape), str(aval.dtype))

    def _inline(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return np.asarray(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, reads: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._unrolled(params, reads)
        inner = next((params[key] for key in _INNER if key in params), None)
        if isinstance(inner, ClosedJaxpr):
            return self._inline(inner.jaxpr, inner.consts, reads)
        if isinstance(inner, Jaxpr):
            return self._inline(inner, (), reads)
        if name in ("cond", "while"):
            raise Unknown(name)
        makes = tuple(self._new(variable.aval) for variable in eqn.outvars)
        return self._noted(name, params, reads, makes)

    def _noted(self, name: str, params: Mapping[str, Any], reads: list[Any], makes: tuple[Value, ...]) -> list[Any]:
        self.program.equations.append(Equation(name, params, tuple(reads), makes))
        return list(makes)

    def _unrolled(self, params: Mapping[str, Any], reads: list[Any]) -> list[Any]:
        n, carried, length = params["num_consts"], params["num_carry"], params["length"]
        if length > MOST_STEPS:
            raise Unknown(f"a loop of {length} steps")
        consts, carry, rows = reads[:n], reads[n : n + carried], reads[n + carried :]
        inner, stacks = params["jaxpr"], []
        for step in reversed(range(length)) if params["reverse"] else range(length):
            own = [self._row(array, step) for array in rows]
            outs = self._inline(inner.jaxpr, inner.consts, [*consts, *carry, *own])
            carry = outs[:carried]
            stacks.append(outs[carried:])
        ordered = stacks[::-1] if params["reverse"] else stacks
        return [*carry, *(self._stacked(list(parts)) for parts in zip(*ordered, strict=True))]

    def _row(self, array: Any, step: int) -> Any:
        if not isinstance(array, Value):
            return array[step]
        value = self._made(array.shape[1:], array.dtype)
        return self._noted("row", {"step": step}, [array], (value,))[0]

    def _stacked(self, parts: list[Any]) -> Any:
        value = self._made((len(parts), *parts[0].shape), str(parts[0].dtype))
        return self._noted("stack", {}, parts, (value,))[0]

    def _made(self, shape: tuple[int, ...], dtype: str) -> Value:
        self._count += 1
        return Value(self._count, shape, dtype)
