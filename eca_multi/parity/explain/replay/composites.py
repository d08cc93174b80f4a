"""Operations that JAX writes out in many primitives, found by trying: a candidate must give the value that is there.

A place where an operation may stand is recognised by a primitive that it needs (exp in a softmax), and the candidate is
compared with the value of the run in float64. So a composite is found however it was written, and a wrong guess does
no harm.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .graph import Graph
from .norms import channels_first, norms
from .program import Equation, Program, Value
from .windows import Pool, convolved

_CLOSE = 1e-9  # of the largest value
_UNARY: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.silu,
    F.hardswish,
    F.hardsigmoid,
    F.relu6,
    F.elu,
    F.softplus,
    F.mish,
    F.selu,
)
_SQUARES = ("square", "mul", "integer_pow", "sub")
_ANCHORS = ("erf", "erfc", "tanh", "logistic", "expm1", "min", "clamp", "log1p", "exp")


@dataclass(frozen=True)
class Candidate:
    """A call of PyTorch that may give a value of the program, from the values that it reads."""

    makes: Value
    reads: tuple[Value, ...]
    call: Callable[..., Any]


def composed(program: Program, values: dict[int, Any]) -> Program:
    """Put PyTorch's operation in the place of what it was written out to, wherever one gives the values of the run."""
    program = _folded(program, values)
    graph = Graph(program, values)
    found: dict[int, Equation] = {}
    for candidate in _candidates(graph):
        if _agrees(candidate, values):
            made = candidate.makes
            found[made.number] = Equation("torch", {"call": candidate.call}, candidate.reads, (made,))
    whole = [found.get(equation.makes[0].number, equation) for equation in program.equations]
    return replace(program, equations=whole).without_dead()


def _folded(program: Program, values: dict[int, Any]) -> Program:
    """Write numbers that depend on nothing, such as sqrt(d), into the equations that read them."""

    def folded(read: Any) -> Any:
        value = values[read.number] if isinstance(read, Value) else None
        return read if value is None or isinstance(value, torch.Tensor) else np.asarray(value)

    whole = [replace(equation, reads=tuple(map(folded, equation.reads))) for equation in program.equations]
    return replace(program, equations=whole, results=[*map(folded, program.results)]).without_dead()


def _agrees(candidate: Candidate, values: dict[int, Any]) -> bool:
    expected, reads = values[candidate.makes.number], [values[value.number] for value in candidate.reads]
    if not isinstance(expected, torch.Tensor) or not expected.is_floating_point():
        return False
    if any(isinstance(x, torch.Tensor) and x is expected for x in reads):
        return False
    try:
        made = candidate.call(*reads)
    except (RuntimeError, ValueError, IndexError, TypeError):  # the operation does not take these
        return False
    if made.shape != expected.shape or not torch.isfinite(expected).all():
        return False
    is_other = all(x.shape != made.shape or not torch.equal(x, made) for x in reads if isinstance(x, torch.Tensor))
    return is_other and bool((made - expected).abs().max() <= _CLOSE * expected.abs().max().clamp(min=1e-30))


def _candidates(graph: Graph) -> Iterator[Candidate]:
    """Yield the candidates; of two for one value the later one stands."""
    for equation in graph.program.equations:
        if equation.name == "div":
            yield from _softmax(graph, equation)
            yield from _means(graph, equation)
        elif equation.name == "sub":
            yield from _log_softmax(graph, equation)
        elif equation.name == "dot_general":
            yield from _linear(graph, equation)
            yield from _resized(graph, equation)
        elif equation.name == "conv_general_dilated":
            yield from _convolution(graph, equation)
        elif equation.name == "select_n":
            yield from _leaky(graph, equation)
        if equation.name in _ANCHORS:
            yield from _activation(graph, equation)
    for made, reads, call in norms(graph):
        yield Candidate(made, reads, call)


def _softmax(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    above, below = equation.reads
    exp, total = graph.maker(above, "exp"), graph.maker(graph.plain(below), "reduce_sum")
    if exp is None or total is None or len(total.params["axes"]) != 1:
        return
    axis = total.params["axes"][0]
    for root in graph.above(exp.reads[0], ("sub", "stop_gradient")):
        yield Candidate(equation.makes[0], (root,), lambda x, axis=axis: torch.softmax(x, axis))


def _log_softmax(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    log = graph.maker(graph.plain(equation.reads[1]), "log")
    total = graph.maker(graph.plain(log.reads[0]), "reduce_sum") if log else None
    if total is None or len(total.params["axes"]) != 1:
        return
    axis = total.params["axes"][0]
    for root in graph.above(equation.reads[0], ("sub", "stop_gradient")):
        yield Candidate(equation.makes[0], (root,), lambda x: torch.log_softmax(x, axis))


def _means(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    """Yield a mean or a variance over axes, and an average pool."""
    total, made = graph.maker(equation.reads[0], "reduce_sum"), equation.makes[0]
    if total is not None and isinstance(total.reads[0], Value):
        axes = list(total.params["axes"])
        yield Candidate(made, (total.reads[0],), lambda x: torch.mean(x, axes))
        for root, correction in itertools.product(graph.above(total.reads[0], _SQUARES)[1:], (0, 1)):
            keep = len(made.shape) == len(root.shape)
            options = {"correction": correction, "keepdim": keep}
            yield Candidate(made, (root,), lambda x, options=options: torch.var(x, axes, **options))
    window = graph.maker(equation.reads[0], "reduce_window_sum")
    if window is not None and isinstance(window.reads[0], Value):
        params, rank = window.params, len(window.reads[0].shape)
        for counts in (False, True):

            def pooled(x: torch.Tensor, counts: bool = counts) -> torch.Tensor:
                return Pool(params, rank).run(x, "mean", count_include_pad=counts)

            yield Candidate(made, (window.reads[0],), pooled)


def _linear(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    """Yield a product with a weight, and one with a bias."""
    x, weight = equation.reads
    (in_x, in_w), (batch, _) = equation.params["dimension_numbers"]
    if batch or not isinstance(x, Value) or not graph.is_weight(weight) or graph.is_weight(x):
        return
    made, inside = equation.makes[0], len(in_x)
    free = [axis for axis in range(len(weight.shape)) if axis not in in_w]
    shape = [weight.shape[axis] for axis in free]

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rest = [axis for axis in range(x.ndim) if axis not in in_x]
        order = [*rest, *in_x]
        turned = x if order == list(range(x.ndim)) else torch.permute(x, order)
        turned = torch.flatten(turned, -inside) if inside > 1 else turned
        rows = weight.permute([*free, *in_w]).reshape(-1, turned.shape[-1])
        out = F.linear(turned, rows, None if bias is None else bias.reshape(-1))
        return out if len(shape) == 1 else torch.unflatten(out, -1, shape)

    yield Candidate(made, (x, weight), linear)
    for added, bias in graph.biases(made):
        yield Candidate(added, (x, weight, bias), linear)


def _resized(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    """Yield the sizes of images that matrices of no argument change, one for each axis."""
    for made in graph.below(equation.makes[0], ("dot_general", "transpose")):
        for root in graph.above(made, ("dot_general", "transpose"))[1:]:
            if len(made.shape) == len(root.shape) == 4 and made.shape != root.shape:
                for mode, antialias in itertools.product(("bilinear", "bicubic"), (False, True)):
                    options: dict[str, Any] = {
                        "size": made.shape[1:3],
                        "mode": mode,
                        "antialias": antialias,
                        "align_corners": False,
                    }
                    resize = partial(F.interpolate, **options)
                    yield Candidate(made, (root,), partial(channels_first, function=resize))


def _convolution(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    x, kernel = equation.reads
    if not isinstance(x, Value) or not isinstance(kernel, Value):
        return
    for added, bias in graph.biases(equation.makes[0]):

        def whole(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return convolved(equation.params, x, kernel, bias.reshape(-1))

        yield Candidate(added, (x, kernel, bias), whole)


def _leaky(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    for value in equation.reads[1:]:
        product = graph.maker(value, "mul")
        slopes = [float(n) for n in product.reads if not isinstance(n, Value) and n.ndim == 0] if product else []
        roots = [n for n in product.reads if isinstance(n, Value)] if product else []
        for slope, root in itertools.product(slopes, roots):
            yield Candidate(equation.makes[0], (root,), lambda x, slope=slope: F.leaky_relu(x, slope))


def _activation(graph: Graph, equation: Equation) -> Iterator[Candidate]:
    """Yield functions of one value, from each that the equation comes from to each that comes of the equation."""
    roots = graph.above(equation.reads[0], graph.ELEMENTWISE)
    for made in graph.below(equation.makes[0], graph.ELEMENTWISE):
        for root, call in itertools.product(roots, _UNARY):
            if root.shape == made.shape and root.number != made.number:
                yield Candidate(made, (root,), call)
