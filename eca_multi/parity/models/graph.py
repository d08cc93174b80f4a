"""Which submodule takes what another one returned, as the recorded values of a run tell.

A tensor is known by its values, in any order and shape: code between two submodules may transpose or flatten what it
hands on. What it computes, as a sum of two outputs, is no submodule's output, and so nobody's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from .calls import Call

Keys = frozenset[bytes]


class Graph:
    """The recorded calls of a run, in the order in which they returned, and the inputs of the model."""

    def __init__(self, calls: Sequence[Call], inputs: Mapping[str, np.ndarray]) -> None:
        self.calls = tuple(calls)
        self._inputs = {name: _keys([array]) for name, array in inputs.items()}
        self._taken = [_keys(call.inputs.values()) for call in self.calls]
        self._returned = [_keys(call.outputs.values()) for call in self.calls]
        self._paths = {call.path for call in self.calls}

    def keys(self, *, call: Call | None = None, inputs: Iterable[str] = ()) -> Keys:
        """Return the keys of what a call returned, and of inputs of the model."""
        returned = self._returned[self._place(call)] if call is not None else frozenset()
        return returned.union(*(self._inputs[name] for name in inputs))

    def takers(self, keys: Keys) -> list[Call]:
        """Return the calls that take one of the tensors, those around them that only hand it on too."""
        return [call for call, taken in zip(self.calls, self._taken, strict=True) if taken & keys]

    def behind_code(self, keys: Keys) -> list[Call]:
        """Return the calls that take, or return, what code may have computed from one of the tensors.

        Code sees what the submodules that it calls return, and what its own module takes. A sum of two other tensors,
        as a residual connection makes it, is none of this one.
        """
        scopes = {call.path for call in self.takers(keys)}
        returning = [call for call, returned in zip(self.calls, self._returned, strict=True) if returned & keys]
        scopes |= {self._around(call.path) for call in returning}
        start = self._place(returning[0]) + 1 if returning else 0
        found = []
        for call in self.calls[start:]:
            around = self._around(call.path) if call.path else None
            taken = around in scopes and any(self._is_computed(a, around, keys) for a in call.inputs.values())
            returned = call.path in scopes and any(self._is_computed(a, call.path, keys) for a in call.outputs.values())
            if taken or returned:
                found.append(call)
        return found

    def owner(self, weight: str) -> str:
        """Return the path of the innermost submodule that was called and whose weight this is."""
        name = weight.removeprefix("params/")  # linen's collection
        return max((path for path in self._paths if is_inside(name, path)), key=len, default="")

    def _is_computed(self, array: np.ndarray, module: str | None, keys: Keys) -> bool:
        """Whether code of a module may have made an array of the tensors with these keys."""
        own = [call for call in self.calls if call.path == module]
        inside = [call for call in self.calls if call.path and self._around(call.path) == module]
        seen = [a for call in own for a in call.inputs.values()] + [a for call in inside for a in call.outputs.values()]
        key = _keys([array])
        if not key or key & _keys(seen):
            return False
        seen += [a for call in inside for a in call.inputs.values()]  # code may have computed these before
        others = {k: a for a in seen for k in _keys([a]) - keys - key if a.shape == array.shape}
        return not any(np.allclose(a + b, array, rtol=1e-9, atol=0) for a, b in combinations(others.values(), 2))

    def _place(self, call: Call) -> int:
        return next(number for number, known in enumerate(self.calls) if known.key == call.key)

    def _around(self, path: str) -> str:
        """Return the path of the module that calls a submodule: a list of modules is never called itself."""
        outer = re.sub(r"[./]?[^./]*$", "", path)
        return outer if outer in self._paths or not outer else self._around(outer)


def innermost(calls: Sequence[Call]) -> list[Call]:
    """Leave out the calls around another one of them."""
    return [call for call in calls if not any(is_inside(other.path, call.path) for other in calls)]


def is_inside(path: str, outer: str) -> bool:
    """Whether a path lies inside another one; all lie inside that of the whole model, ""."""
    return path != outer and (not outer or path.startswith((f"{outer}.", f"{outer}/")))


def _keys(arrays: Iterable[np.ndarray]) -> Keys:
    """Name each floating tensor by its sorted values; a constant one could be any."""
    floats = [array for array in arrays if array.dtype.kind == "f" and array.size > 1]
    return frozenset(np.sort(a, axis=None).tobytes() for a in floats if not (a == a.flat[0]).all())
