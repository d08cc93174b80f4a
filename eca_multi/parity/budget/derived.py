"""Backward passes that are derived from the decomposed forward pass, whose steps and their gradients run under noise.

PyTorch's kernel of such a backward pass computes weights, distances or terms anew, and rounds each of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.overrides import enable_reentrant_dispatch

from eca_multi.parity.engines._private_torch import OpOverload

from .plain_rules import Args, Mode, Rule
from .sampling import grid_sample

aten = torch.ops.aten


def _derived(
    steps: Callable[..., torch.Tensor], inputs: int, mode: Mode, func: OpOverload, args: Args, kwargs: dict[str, Any]
) -> Any:
    """Return the gradients of `steps` by its first `inputs` arguments; args are the cotangent and those of `steps`."""
    cotangent, *rest = args
    masked = func._schema.arguments[-1].name == "output_mask"
    wanted = rest.pop() if masked else [True] * inputs
    leaves = [x.detach().requires_grad_(asked) for x, asked in zip(rest[:inputs], wanted, strict=True)]
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    # Autograd is off below a dispatch mode; the snapshot of the thread's state from before the call has it on.
    with enable_reentrant_dispatch(), torch.enable_grad(), mode:
        y = steps(*leaves, *rest[inputs:], **kwargs)
        found = iter(torch.autograd.grad(y, asked, cotangent, materialize_grads=True))
    gradients = tuple(next(found) if leaf.requires_grad else None for leaf in leaves)
    return gradients if len(gradients) > 1 else gradients[0]


def _multi_margin(
    x: torch.Tensor,
    target: torch.Tensor,
    p: float = 1,
    margin: float = 1,
    weight: torch.Tensor | None = None,
    reduction: int = 1,
) -> torch.Tensor:
    rows, places = torch.atleast_2d(x), torch.atleast_1d(target)[:, None]
    z = (margin - rows.gather(1, places) + rows).clamp_min(0)
    z = z if p == 1 else z * z
    z = z if weight is None else z * weight[places]
    z = torch.where(torch.arange(rows.shape[1], device=x.device) != places, z, 0)
    return _reduced(z.sum(1) / rows.shape[1], reduction, x.ndim)


def _multilabel_margin(
    x: torch.Tensor, target: torch.Tensor, reduction: int, is_label: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum max(0, 1 - x[label] + x[other]) over the labels before the first -1; PyTorch's steps count later ones."""
    rows = torch.atleast_2d(x)
    flags, labels, counts = _is_label(x, target)
    others = torch.atleast_2d(flags) == 0
    z = (1 - rows.gather(1, labels)[:, :, None] + rows[:, None]).clamp_min(0)
    z = torch.where(counts[:, :, None] & others[:, None], z, 0)
    return _reduced(z.sum((1, 2)) / rows.shape[1], reduction, x.ndim)


def _is_label(x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which classes are labels, as numbers in the shape of x; the labels; which of them count."""
    labels = torch.atleast_2d(target)
    counts = (labels == -1).cumsum(1) == 0
    labels = torch.where(counts, labels, 0)
    flags = torch.zeros_like(labels).scatter_reduce(1, labels, counts.long(), "amax")
    return flags.to(x.dtype).reshape(x.shape), labels, counts


def _reduced(z: torch.Tensor, reduction: int, ndim: int) -> torch.Tensor:
    if reduction == 0:
        return z if ndim > 1 else z[0]
    return z.mean() if reduction == 1 else z.sum()


def _distances(x1: torch.Tensor, x2: torch.Tensor, p: float, _: Any = None) -> torch.Tensor:
    return torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)


def _pairs(x: torch.Tensor, p: float = 2.0, _: Any = None) -> torch.Tensor:
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return torch.linalg.vector_norm(x[first] - x[second], p, -1)


def _weight_norm(v: torch.Tensor, g: torch.Tensor, _: torch.Tensor, dim: int) -> torch.Tensor:
    others = [d for d in range(v.ndim) if d != dim]
    return v * (g / torch.linalg.vector_norm(v, 2, others, keepdim=True))


def _trilinear(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, *expand_sum: list[int], unroll_dim: int = 1
) -> torch.Tensor:
    """Sum the product of three tensors, each without the dimensions of its `expand`, over those of the last list."""
    *expand, summed = expand_sum[:4]
    ndim = a.ndim + len(expand[0])
    letters = "abcdefghijklmnopqrstuvwxyz"[:ndim]
    of = ["".join(letters[d] for d in range(ndim) if d not in gone) for gone in expand]
    return torch.einsum(f"{','.join(of)}->{''.join(letters[d] for d in range(ndim) if d not in summed)}", a, b, c)


# Steps of forward passes that PyTorch has no decomposition of, or none that is right.
FORWARD: dict[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d.default: grid_sample,
    aten.grid_sampler_3d.default: grid_sample,
    aten.multi_margin_loss.default: _multi_margin,
    aten.multilabel_margin_loss_forward.default: lambda *args: (_multilabel_margin(*args), _is_label(*args[:2])[0]),
    aten._trilinear.default: _trilinear,
    aten._cdist_forward.default: _distances,
    aten._pdist_forward.default: _pairs,
}
BACKWARD: dict[str, Rule] = {
    "grid_sampler_2d_backward": partial(_derived, grid_sample, 2),
    "grid_sampler_3d_backward": partial(_derived, grid_sample, 2),
    "_weight_norm_interface_backward": partial(_derived, _weight_norm, 2),
    "_cdist_backward": partial(_derived, _distances, 1),
    "_pdist_backward": partial(_derived, _pairs, 1),
    "multi_margin_loss_backward": partial(_derived, _multi_margin, 1),
    "multilabel_margin_loss_backward": partial(_derived, _multilabel_margin, 1),
}
