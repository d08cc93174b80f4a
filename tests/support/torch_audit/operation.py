"""One operation with its data, and the share of the budget that torch's own run of it uses, result by result."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from eca_multi.parity.budget.noise import budget
from tests.support.budgets import LEVELS, U_ACC, Tensors

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator], np.ndarray]


class Operation(NamedTuple):
    """A function of tensors in the caller's dtype, and how its tensors are drawn."""

    draws: Mapping[str, Shape | Draw]
    call: Callable[..., Any]


def op(call: Callable[..., Any], /, **draws: Shape | Draw) -> Operation:
    """Return an operation on tensors by name; a shape stands for a standard normal draw."""
    return Operation(draws, call)


def layer(
    make: Callable[[], torch.nn.Module], /, *inputs: Shape | Draw, evaluation: bool = False, **kwargs: Any
) -> Operation:
    """Return the operation of a layer: its parameters are drawn as the layer draws them, and are tensors by name.

    Vectors of parameters move off the constants (0 and 1) with which torch starts them.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        template = make().double().train(not evaluation)
        for parameter in template.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    weights = {name.replace(".", "__"): parameter.detach().numpy() for name, parameter in template.named_parameters()}
    drawn = {f"x{i}" if i else "x": shape for i, shape in enumerate(inputs)}

    def call(**tensors: torch.Tensor) -> Any:
        dtype = next(iter(tensors.values())).dtype
        own = copy.deepcopy(template).to(dtype)  # it may keep running statistics
        parameters = {name.replace("__", "."): tensors[name] for name in weights}
        return torch.func.functional_call(own, parameters, tuple(tensors[name] for name in drawn), kwargs)

    return Operation({**drawn, **{name: partial(_constant, values) for name, values in weights.items()}}, call)


def _constant(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values


def audited(operation: Operation, dtype: str, seed: int) -> tuple[Tensors, Callable[..., Tensors]]:
    """Return the tensors of `dtype` in float64, and a function that computes outputs and gradients in a given dtype."""
    rng = np.random.default_rng(seed)
    to = getattr(torch, dtype)
    drawn = {n: d(rng) if callable(d) else rng.normal(size=d) for n, d in operation.draws.items()}
    tensors = {n: torch.from_numpy(np.array(a, np.float64)).to(to).double() for n, a in drawn.items()}
    shapes = [tuple(y.shape) for y in _flat(operation.call(**{n: t.clone() for n, t in tensors.items()}))]
    cotangents = [torch.from_numpy(np.asarray(rng.normal(size=s) + 0.3)).to(to).double() for s in shapes]

    def evaluate(dtype: torch.dtype) -> Tensors:
        leaves = {n: t.to(dtype).clone().requires_grad_() for n, t in tensors.items()}
        ys = _flat(operation.call(**leaves))
        known = [(y, g.to(dtype)) for y, g in zip(ys, cotangents, strict=True) if y.requires_grad]
        results, arriving = zip(*known, strict=True)
        found = torch.autograd.grad(results, list(leaves.values()), arriving, allow_unused=True)
        outputs = {f"y{i}" if i else "y": y.detach() for i, y in enumerate(ys)}
        return outputs | {f"d{n}": g for n, g in zip(leaves, found, strict=True) if g is not None}

    return tensors, evaluate


def _flat(tree: Any) -> list[torch.Tensor]:
    """Return the floating-point tensors of nested tuples."""
    if isinstance(tree, torch.Tensor):
        return [tree] if tree.is_floating_point() else []
    return [leaf for part in tree if part is not None for leaf in _flat(part)]


def shares(operation: Operation, dtype: str, seed: int) -> dict[str, float]:
    """Return max |error| / E of each result of torch's own run in `dtype`; infinite for a stray NaN."""
    _, evaluate = audited(operation, dtype, seed)
    u, tiny = LEVELS[dtype]
    reference, errors = budget(partial(evaluate, torch.float64), u, U_ACC, tiny, seed=seed)
    return share(evaluate(getattr(torch, dtype)), reference, errors)


def share(results: Tensors, reference: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for name, r in reference.items():
        off = np.abs(results[name].double().numpy() - r)
        found[name] = float(np.nan_to_num(off / errors[name], nan=np.inf).max()) if off.size else 0.0
    return found
