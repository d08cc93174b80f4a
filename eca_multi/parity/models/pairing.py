"""Which submodule of the port does the work of which one of the reference: by order, name, kind, shape and values.

The calls of both runs, in the order in which they returned, are aligned so that the sum of scores is greatest. A pair
must fit in shape, up to the order of axes, and must not be two layers of different kinds (a convolution and a norm).
What is left over is paired where kind and shape fit, since two branches may be computed in either order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from .calls import Call
from .layouts import Order, aligned, distance

SAME = 1e-3  # relative distance up to which two outputs count as the same values
ALIKE = 0.6  # of two names
_KINDS = (  # the first pattern that a class's name in small letters has
    ("attention", "attention"),
    ("norm", "norm"),
    ("conv", "conv"),
    ("pool", "pool"),
    ("embed", "embed"),
    ("dropout", "dropout"),
    ("lstm", "lstm"),
    ("gru", "gru"),
    ("linear|dense", "dense"),
    ("relu|gelu|silu|swish|sigmoid|tanh|softmax|activation|mish|elu$", "activation"),
    ("upsamp", "resize"),
    ("pad", "pad"),
    ("flatten|reshape|permute", "shape"),
)


@dataclass(frozen=True)
class Pair:
    reference: Call
    port: Call

    @property
    def names(self) -> tuple[str, str]:
        """The paths of the first output of both."""
        return next(iter(self.reference.outputs)), next(iter(self.port.outputs))

    @property
    def place(self) -> str:
        """Name the submodule in the reference, and its twin."""
        return f"{self.reference.name} ({self.reference.type}; in the port {self.port.name}, {self.port.type})"


def pairs(reference: Sequence[Call], port: Sequence[Call], usual: Order) -> list[Pair]:
    """Return the pairs in the order of the reference's calls; `usual` is the order of axes of the whole model."""
    ours, theirs = (
        [_Marked(call) for call in reference if call.outputs],
        [_Marked(call) for call in port if call.outputs],
    )
    found = _aligned(_scores(ours, theirs, usual))
    left, free = _left(ours, found, 0), _left(theirs, found, 1)
    for i in left:
        fitting = [j for j in free if ours[i].kind and ours[i].kind == theirs[j].kind and _fits(ours[i], theirs[j])]
        if fitting:
            j = max(fitting, key=lambda j: _likeness(ours[i], theirs[j]))
            found.append((i, j))
            free.remove(j)
    return [Pair(ours[i].call, theirs[j].call) for i, j in sorted(found)]


def kind_of(type_name: str) -> str:
    """Return the kind of layer that a class's name says, "" for none that is known.

    Example:
        >>> kind_of("Conv2d"), kind_of("BatchNormalization"), kind_of("ResidualBlock")
        ('conv', 'norm', '')
    """
    small = type_name.lower()
    if re.search(r"block|layer$|encoder|decoder|model|net\d*$|stage|sequential", small) and "norm" not in small:
        return ""
    return next((kind for pattern, kind in _KINDS if re.search(pattern, small)), "")


class _Marked:
    """A call with what its first output is recognised by, whatever the order of axes."""

    def __init__(self, call: Call) -> None:
        self.call, self.kind = call, kind_of(call.type)
        self.output = next(iter(call.outputs.values()))
        self.shape = sorted(size for size in self.output.shape if size > 1)
        values = self.output.astype(np.float64).ravel()
        with np.errstate(all="ignore"):
            marks = [values.mean(), values.std(), values.min(), values.max()] if values.size else [0.0] * 4
        self.marks = np.array(marks)


def _fits(one: _Marked, other: _Marked) -> bool:
    kinds_fit = not (one.kind and other.kind) or one.kind == other.kind
    return kinds_fit and one.shape == other.shape


def _scores(ours: Sequence[_Marked], theirs: Sequence[_Marked], usual: Order) -> np.ndarray:
    scores = np.full((len(ours), len(theirs)), -np.inf)
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            if _fits(one, other):
                same = 8.0 if _same(one, other, usual) else 0.0
                known = 3.0 if one.kind and one.kind == other.kind else 0.0 if one.kind or other.kind else 1.0
                # Two blocks of unknown kinds with other values are a pair by their names alone: a block is no add.
                if (
                    same
                    or known == 3.0
                    or _likeness(one, other) > ALIKE
                    or _alike(one.call.type, other.call.type) > ALIKE
                ):
                    scores[i, j] = same + known + _likeness(one, other)
    return scores


def _same(one: _Marked, other: _Marked, usual: Order) -> bool:
    """Whether two outputs hold the same values; the marks say so first, which costs less."""
    scale = max(float(np.abs(one.marks).max()), np.finfo(np.float64).tiny)
    with np.errstate(all="ignore"):
        if not np.abs(one.marks - other.marks).max() <= 0.05 * scale or one.marks[1] == 0:
            return False
    turned = aligned(other.output, one.output, tuple(np.argsort(usual)))
    return turned is not None and distance(turned, one.output) < SAME


def _likeness(one: _Marked, other: _Marked) -> float:
    """Compare two paths, with digits and words alike in every framework's way of joining them: 0 to 1."""
    return _alike(one.call.path, other.call.path)


def _alike(first: str, second: str) -> float:
    first, second = (re.sub(r"[^a-z0-9]+", "", name.lower()) for name in (first, second))
    if not first or not second:
        return float(first == second)
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _aligned(scores: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs, in order on both sides, whose sum of scores is greatest."""
    n, m = scores.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        for j in range(m):
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + scores[i, j])
    found, i, j = [], n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]


def _left(marked: Sequence[_Marked], found: Sequence[tuple[int, int]], side: int) -> list[int]:
    used = {pair[side] for pair in found}
    return [number for number in range(len(marked)) if number not in used]
