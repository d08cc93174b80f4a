"""Normalisation layers and running statistics."""

import torch
import torch.nn.functional as F
from torch import nn

from .operation import layer, op

MAPS = (4, 16, 13, 11)


def _offset(rng):
    return rng.normal(size=MAPS) + rng.uniform(-2, 2, (1, 16, 1, 1))


def _statistics(x, weight, bias):
    mean, var = torch.linspace(-2, 2, 17)[:16].to(x), torch.linspace(0.25, 4, 16).to(x)
    y = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=0.1)
    return y, mean, var


NORMS = {
    "batch_norm 1d": layer(lambda: nn.BatchNorm1d(20), (32, 20)),
    "batch_norm 2d": layer(lambda: nn.BatchNorm2d(16), _offset),
    "batch_norm 3d": layer(lambda: nn.BatchNorm3d(6), (2, 6, 5, 4, 7)),
    "batch_norm eval": layer(lambda: nn.BatchNorm2d(16), _offset, evaluation=True),
    "batch_norm eps": layer(lambda: nn.BatchNorm2d(16, eps=1e-3, momentum=0.01), _offset),
    "batch_norm statistics": op(_statistics, x=_offset, weight=(16,), bias=(16,)),
    "batch_norm no affine": layer(lambda: nn.BatchNorm2d(16, affine=False), _offset),
    "layer_norm": layer(lambda: nn.LayerNorm(96), (4, 33, 96)),
    "layer_norm rows": layer(lambda: nn.LayerNorm(32), (600, 32)),
    "layer_norm 2d": layer(lambda: nn.LayerNorm((13, 11)), _offset),
    "layer_norm no affine": layer(lambda: nn.LayerNorm(96, elementwise_affine=False), (4, 33, 96)),
    "layer_norm offset": op(lambda x: F.layer_norm(x + 4, (96,)), x=(33, 96)),
    "rms_norm": layer(lambda: nn.RMSNorm(96, eps=1e-6), (4, 33, 96)),
    "rms_norm default eps": layer(lambda: nn.RMSNorm(96), (4, 33, 96)),
    "group_norm": layer(lambda: nn.GroupNorm(4, 16), _offset),
    "group_norm one": layer(lambda: nn.GroupNorm(1, 16), _offset),
    "group_norm each": layer(lambda: nn.GroupNorm(16, 16), _offset),
    "instance_norm": layer(lambda: nn.InstanceNorm2d(16, affine=True), _offset),
    "instance_norm 1d": layer(lambda: nn.InstanceNorm1d(16), (4, 16, 37)),
    "instance_norm tracked": layer(lambda: nn.InstanceNorm2d(16, track_running_stats=True), _offset, evaluation=True),
    "local_response_norm": op(lambda x: F.local_response_norm(x, 5), x=_offset),
    "normalize": op(lambda x: F.normalize(x, dim=1), x=_offset),
    "normalize p1": op(lambda x: F.normalize(x, p=1.0, dim=-1), x=(33, 96)),
}
