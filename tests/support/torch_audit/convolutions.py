"""Convolutions, linear layers, embeddings."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .operation import layer, op

MAPS = (2, 16, 27, 23)


def _indices(*shape, high):
    return torch.from_numpy(np.random.default_rng(3).integers(0, high, shape))


TOKENS = _indices(8, 37, high=50)
OFFSETS = torch.tensor([0, 3, 3, 11, 20])
BAG = _indices(31, high=50)

CONVOLUTIONS = {
    "linear": layer(lambda: nn.Linear(96, 64), (4, 33, 96)),
    "linear wide": layer(lambda: nn.Linear(1024, 32), (16, 1024)),
    "linear no bias": layer(lambda: nn.Linear(96, 64, bias=False), (33, 96)),
    "bilinear": layer(lambda: nn.Bilinear(20, 30, 40), (32, 20), (32, 30)),
    "bilinear small": layer(lambda: nn.Bilinear(5, 4, 3), (7, 5), (7, 4)),
    "conv1d": layer(lambda: nn.Conv1d(24, 32, 5, padding=2), (4, 24, 67)),
    "conv1d dilated": layer(lambda: nn.Conv1d(24, 32, 3, dilation=4), (4, 24, 67)),
    "conv1d long": layer(lambda: nn.Conv1d(1, 8, 401, stride=160), (2, 1, 4000)),
    "conv2d": layer(lambda: nn.Conv2d(16, 24, 3, padding=1), MAPS),
    "conv2d stride 2": layer(lambda: nn.Conv2d(16, 24, 3, 2, 1), MAPS),
    "conv2d 7x7": layer(lambda: nn.Conv2d(3, 16, 7, 2, 3, bias=False), (2, 3, 56, 48)),
    "conv2d 1x1": layer(lambda: nn.Conv2d(16, 64, 1), MAPS),
    "conv2d dilated": layer(lambda: nn.Conv2d(16, 24, 3, dilation=2, padding=2), MAPS),
    "conv2d grouped": layer(lambda: nn.Conv2d(16, 32, 3, groups=4), MAPS),
    "conv2d depthwise": layer(lambda: nn.Conv2d(16, 16, 5, padding=2, groups=16), MAPS),
    "conv2d multiplier": layer(lambda: nn.Conv2d(16, 32, 3, groups=16), MAPS),
    "conv2d same": layer(lambda: nn.Conv2d(16, 24, (3, 5), padding="same"), MAPS),
    "conv2d reflect": layer(lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="reflect"), MAPS),
    "conv2d circular": layer(lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="circular"), MAPS),
    "conv2d replicate": layer(lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="replicate"), MAPS),
    "conv2d patches": layer(lambda: nn.Conv2d(3, 96, 16, 16), (2, 3, 64, 48)),
    "conv3d": layer(lambda: nn.Conv3d(6, 8, 3, padding=1), (2, 6, 7, 9, 8)),
    "conv3d stride": layer(lambda: nn.Conv3d(6, 8, (1, 3, 3), (1, 2, 2)), (2, 6, 7, 9, 8)),
    "conv_transpose1d": layer(lambda: nn.ConvTranspose1d(16, 12, 4, 2, 1), (4, 16, 33)),
    "conv_transpose2d": layer(lambda: nn.ConvTranspose2d(16, 12, 4, 2, 1), (2, 16, 13, 11)),
    "conv_transpose2d 3": layer(lambda: nn.ConvTranspose2d(16, 12, 3, 2, 1, 1), (2, 16, 13, 11)),
    "conv_transpose2d grouped": layer(lambda: nn.ConvTranspose2d(16, 8, 2, 2, groups=4), (2, 16, 13, 11)),
    "conv_transpose2d dilated": layer(lambda: nn.ConvTranspose2d(16, 12, 3, dilation=2), (2, 16, 13, 11)),
    "conv_transpose3d": layer(lambda: nn.ConvTranspose3d(6, 4, 2, 2), (2, 6, 5, 4, 6)),
    "unfold": op(lambda x: F.unfold(x, 3, padding=1, stride=2), x=MAPS),
    "fold": op(lambda x: F.fold(x, (12, 10), 3, padding=1, stride=2), x=(2, 36, 30)),
    "embedding": op(lambda w: F.embedding(TOKENS, w), w=(50, 32)),
    "embedding padding_idx": op(lambda w: F.embedding(TOKENS, w, padding_idx=0), w=(50, 32)),
    "embedding_bag mean": op(lambda w: F.embedding_bag(BAG, w, OFFSETS, mode="mean"), w=(50, 32)),
    "embedding_bag sum": op(lambda w: F.embedding_bag(BAG, w, OFFSETS, mode="sum"), w=(50, 32)),
    "embedding_bag max": op(lambda w: F.embedding_bag(BAG, w, OFFSETS, mode="max"), w=(50, 32)),
    "embedding_bag weighted": op(
        lambda w, s: F.embedding_bag(BAG, w, OFFSETS, mode="sum", per_sample_weights=s), w=(50, 32), s=(31,)
    ),
    "weight_norm": layer(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(48, 24)), (16, 48)),
}
