"""Ports with one planted fault each, written by other means than the hypotheses, and the cause that is found."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from eca_multi.parity.budget.noise import budget
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.explain.hypotheses.cause import Cause
from eca_multi.parity.explain.hypotheses.search import name_causes
from eca_multi.parity.judge.compare import judge

C = SAFETY["stochastic"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.7 + 0.2


def randomised(module: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give every parameter and statistic values of no symmetry."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                size = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 1
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / size**0.5 + 0.3 * (tensor.ndim == 1))
                if "var" in name:
                    tensor.abs_().add_(0.1)
    return module


def causes_of(
    reference: torch.nn.Module,
    port: Callable[..., object],
    *inputs: torch.Tensor,
    dtype: str = "float32",
    stand_in: torch.nn.Module | None = None,
) -> list[Cause]:
    """Return the causes of a port's failure. The port is called with a copy of the module, and the inputs.

    `stand_in` runs in the place of the reference, on which hypotheses are tried.
    """
    single = getattr(torch, dtype)

    def cast(tensor: torch.Tensor, to: torch.dtype) -> torch.Tensor:
        return tensor.to(to) if tensor.is_floating_point() else tensor

    quantised = [cast(cast(tensor, single), torch.float64) for tensor in inputs]
    wide = copy.deepcopy(reference).to(single).double()

    def run(changes, tried: torch.nn.Module = wide) -> dict[str, torch.Tensor]:
        module = copy.deepcopy(tried)
        leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in quantised]
        with changes:
            returned = module(*leaves)
        return named(returned, module)

    known = known_of(run, dtype)
    narrow = copy.deepcopy(reference).to(single)
    with torch.no_grad():
        returned = port(narrow, *(cast(tensor, single) for tensor in inputs))
    found = {n: Tensor(t.detach().float().numpy().copy(), dtype) for n, t in named(returned, narrow).items()}
    failing = [n for n in known if n in found and not judge(found[n], *known[n], None, C).verdict.green]
    if not failing:
        raise ValueError("the port must fail. Received: one within its budget.")
    chosen = wide if stand_in is None else copy.deepcopy(stand_in).double()
    return name_causes(partial(run, tried=chosen), found, known, failing[0], dtype=dtype, c=C)


def known_of(run: Callable[..., dict[str, torch.Tensor]], dtype: str = "float32") -> dict[str, tuple]:
    """Return the unchanged reference with its errors."""
    levels = rounding(dtype)
    values, errors = budget(lambda: run(nullcontext()), levels.u, U_ACC, levels.tiny)
    return {name: (values[name], errors[name]) for name in values}


def named(returned: object, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    first = returned[0] if isinstance(returned, tuple) else returned
    statistics = {n: t for n, t in module.named_buffers() if t.is_floating_point()}
    return {"y": first, **{name: tensor.detach().clone() for name, tensor in statistics.items()}}
