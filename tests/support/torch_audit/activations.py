"""Elementwise functions, gates, softmax."""

import torch
import torch.nn.functional as F
from torch import nn

from .operation import layer, op

X = (4, 16, 13, 11)


def _wide(rng):
    return 3 * rng.normal(size=X)


def _prelu(rng):
    return 0.25 + 0.1 * rng.normal(size=16)


ACTIVATIONS = {
    "relu": op(F.relu, input=_wide),
    "relu6": op(F.relu6, input=_wide),
    "leaky_relu": op(lambda x: F.leaky_relu(x, 0.1), x=_wide),
    "rrelu eval": op(F.rrelu, input=_wide),
    "prelu": op(F.prelu, input=_wide, weight=_prelu),
    "elu": op(F.elu, input=_wide),
    "elu alpha": op(lambda x: F.elu(x, 0.5), x=_wide),
    "selu": op(F.selu, input=_wide),
    "celu": op(lambda x: F.celu(x, 1.5), x=_wide),
    "gelu": op(F.gelu, input=_wide),
    "gelu tanh": op(lambda x: F.gelu(x, approximate="tanh"), x=_wide),
    "silu": op(F.silu, input=_wide),
    "mish": op(F.mish, input=_wide),
    "sigmoid": op(torch.sigmoid, input=_wide),
    "logsigmoid": op(F.logsigmoid, input=_wide),
    "tanh": op(torch.tanh, input=_wide),
    "tanhshrink": op(F.tanhshrink, input=_wide),
    "softplus": op(F.softplus, input=_wide),
    "softplus beta": op(lambda x: F.softplus(x, 2.0, 5.0), x=_wide),
    "softsign": op(F.softsign, input=_wide),
    "softshrink": op(F.softshrink, input=_wide),
    "hardshrink": op(F.hardshrink, input=_wide),
    "hardtanh": op(F.hardtanh, input=_wide),
    "hardsigmoid": op(F.hardsigmoid, input=_wide),
    "hardswish": op(F.hardswish, input=_wide),
    "threshold": op(lambda x: F.threshold(x, 0.1, -2.0), x=_wide),
    "glu": op(lambda x: F.glu(x, 1), x=_wide),
    "softmax": op(lambda x: F.softmax(x, -1), x=(32, 100)),
    "softmax channels": op(lambda x: F.softmax(x, 1), x=_wide),
    "softmin": op(lambda x: F.softmin(x, -1), x=(32, 100)),
    "log_softmax": op(lambda x: F.log_softmax(x, -1), x=(32, 1000)),
    "gumbel without noise": op(lambda x: F.softmax(x / 0.5, -1), x=(32, 100)),
    "softmax2d": layer(nn.Softmax2d, X),
    "exp": op(torch.exp, input=X),
    "log1p": op(lambda x: torch.log1p(x.abs()), x=X),
    "erf": op(torch.erf, input=X),
    "rsqrt": op(lambda x: torch.rsqrt(x * x + 1e-3), x=X),
    "swiglu": op(lambda a, b: F.silu(a) * b, a=(4, 33, 64), b=(4, 33, 64)),
}
