"""Normalisations that JAX writes out: candidates of layer, RMS, group and batch norms, for composites.py to try."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .graph import Graph
from .program import Equation, Value

Found = tuple[Value, tuple[Value, ...], Callable[..., Any]]
_UP = (
    *("square", "mul", "sub", "div", "add", "reduce_sum", "broadcast_in_dim", "reshape", "squeeze", "expand_dims"),
    *("convert_element_type", "max", "abs", "integer_pow", "copy"),
)
_DOWN = ("mul", "div", "sub", "add", "broadcast_in_dim", "reshape", "convert_element_type", "copy")
_ROOTS = ("rsqrt", "sqrt", "pow")


def norms(graph: Graph) -> Iterator[Found]:
    """Yield the candidates of each root of a variance and an eps, those with more of the norm's weights later."""
    for equation in graph.program.equations:
        if equation.name not in _ROOTS:
            continue
        summed = graph.maker(graph.plain(equation.reads[0]), "add")
        numbers = [x for x in summed.reads if not isinstance(x, Value) and x.ndim == 0] if summed else []
        if summed is not None and numbers:
            yield from _of_root(graph, equation, summed, float(numbers[0]))


def _of_root(graph: Graph, root: Equation, summed: Equation, eps: float) -> Iterator[Found]:
    variance = next(x for x in summed.reads if isinstance(x, Value))
    ups = graph.above(variance, _UP)
    axes = {tuple(e.params["axes"]) for value in ups if (e := graph.maker(value, "reduce_sum")) is not None}
    for made in graph.below(root.makes[0], _DOWN):
        affine = _affine(graph, made, root.makes[0])
        rank = len(made.shape)
        inputs = [value for value in ups if len(value.shape) >= 2 and value.shape == made.shape]
        if not inputs and not axes:  # running statistics
            inputs = _data(graph, made)
        for x, over in itertools.product(inputs, axes or {()}):
            for weights in affine:
                for call in _calls(over, rank, eps, made.shape):
                    yield made, (x, *(w for w in weights if w is not None)), _bound(call, weights)
        if not axes:
            yield from _running(graph, made, variance, inputs, affine, eps)


def _affine(graph: Graph, made: Value, until: Value) -> list[tuple[Value | None, Value | None]]:
    """Return the pairs of scale and bias that may have come in on the way from the root to a value."""
    scales: list[Value | None] = [None]
    biases: list[Value | None] = [None]
    for value in graph.above(made, _DOWN):
        equation = graph.maker(value, "mul", "add")
        for read in equation.reads if equation else ():
            weight = graph.weight(read)
            if weight is not None:
                (scales if equation and equation.name == "mul" else biases).append(weight)
    return list(itertools.product(dict.fromkeys(scales), dict.fromkeys(biases)))


def _data(graph: Graph, made: Value) -> list[Value]:
    shape = made.shape
    return [v for v in graph.above(made, _DOWN) if v.shape == shape and v.number != made.number]


def _calls(over: tuple[int, ...], rank: int, eps: float, shape: tuple[int, ...]) -> list[Callable[..., Any]]:
    """Return the norms over these axes, each called as norm(x, scale, bias)."""
    last = tuple(range(rank - len(over), rank))
    calls: list[Callable[..., Any]] = []
    if over and over == last:
        size = [shape[axis] for axis in over]
        calls.append(lambda x, w, b: F.layer_norm(x, size, _shaped(w, size), _shaped(b, size), eps))
        calls.append(lambda x, w, b: _rms_norm(x, size, _shaped(w, size), b, eps))
    if over == tuple(range(rank - 1)):
        calls.append(lambda x, w, b: channels_first(x, lambda y: F.batch_norm(y, None, None, w, b, True, 0.0, eps)))
    if rank > 2 and over and 0 not in over:
        for groups in (n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0):
            calls.append(lambda x, w, b, groups=groups: channels_first(x, lambda y: F.group_norm(y, groups, w, b, eps)))
    return calls


def _running(
    graph: Graph, made: Value, variance: Value, inputs: list[Value], affine: Any, eps: float
) -> Iterator[Found]:
    """Yield batch norms by running statistics."""
    var = graph.plain(variance)
    means = [v for v in map(graph.plain, graph.above(made, _DOWN)) if isinstance(v, Value) and v.shape == var.shape]
    for x, mean, (scale, bias) in itertools.product(inputs, dict.fromkeys(means), affine):

        def call(x: Any, mean: Any, var: Any, *own: Any, has: tuple[bool, bool] = (scale is None, bias is None)) -> Any:
            left = list(own)
            w, b = (None if absent else left.pop(0) for absent in has)
            return channels_first(x, lambda y: F.batch_norm(y, mean, var, w, b, False, 0.0, eps))

        yield made, (x, mean, var, *(v for v in (scale, bias) if v is not None)), call


def _bound(call: Callable[..., Any], weights: tuple[Value | None, Value | None]) -> Callable[..., Any]:
    def bound(x: torch.Tensor, *own: torch.Tensor) -> Any:
        left = list(own)
        scale, bias = (None if weight is None else left.pop(0) for weight in weights)
        return call(x, scale, bias)

    return bound


def _shaped(weight: torch.Tensor | None, size: list[int]) -> torch.Tensor | None:
    return weight if weight is None or list(weight.shape) == size else weight.reshape(size)


def _rms_norm(x: torch.Tensor, size: list[int], weight: Any, bias: Any, eps: float) -> torch.Tensor:
    out = F.rms_norm(x, size, weight, eps)
    return out if bias is None else out + bias


def channels_first(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Call a function of (N, C, *S) on (N, *S, C)."""
    return torch.movedim(function(torch.movedim(x, -1, 1)), 1, -1)
