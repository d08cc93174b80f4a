"""Products, sums and moments as layers use them."""

import torch

from .operation import op

A = (4, 33, 48)


def _rotary(x):
    angle = torch.arange(33, dtype=x.dtype)[:, None] * 10000 ** (-torch.arange(24, dtype=x.dtype) / 24)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


TENSORS = {
    "matmul": op(torch.matmul, input=A, other=(4, 48, 32)),
    "einsum heads": op(lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k), q=(2, 17, 4, 8), k=(2, 13, 4, 8)),
    "outer": op(torch.outer, input=(33,), vec2=(48,)),
    "sum": op(lambda x: x.sum((1, 2)), x=A),
    "mean": op(lambda x: x.mean(-1), x=A),
    "var": op(lambda x: x.var(-1), x=A),
    "std": op(lambda x: x.std(-1, correction=0), x=A),
    "norm": op(lambda x: x.norm(dim=-1), x=A),
    "logsumexp": op(lambda x: x.logsumexp(-1), x=A),
    "cumsum": op(lambda x: x.cumsum(1), x=A),
    "prod": op(lambda x: x.prod(-1), x=(33, 6)),
    "cumprod": op(lambda x: x.cumprod(-1), x=(33, 6)),
    "amax": op(lambda x: x.amax(-1), x=A),
    "sort": op(lambda x: x.sort(-1)[0], x=A),
    "topk": op(lambda x: x.topk(5)[0], x=A),
    "broadcast": op(lambda x, b: x * b + b, x=A, b=(48,)),
    "where": op(lambda x, b: torch.where(x > 0, x * b, b), x=A, b=A),
    "clamp": op(lambda x: x.clamp(-0.5, 0.75), x=A),
    "pow": op(lambda x: (x.abs() + 0.1) ** 1.7, x=A),
    "rotary": op(_rotary, x=A),
    "inverse": op(lambda x: torch.linalg.inv(x @ x.mT + 8 * torch.eye(8, dtype=x.dtype)), x=(3, 8, 8)),
    "roll": op(lambda x: x.roll(3, 1).flip(2), x=A),
}
