"""Pooling, padding, shuffles."""

import torch.nn.functional as F
from torch import nn

from .operation import layer, op

MAPS = (2, 16, 27, 23)
VOLUME = (2, 6, 9, 8, 7)


def _unpool(x):
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, indices, 2, output_size=x.shape[2:])


POOLING = {
    "max_pool1d": op(lambda x: F.max_pool1d(x, 3, 2), x=(4, 16, 67)),
    "max_pool2d": op(lambda x: F.max_pool2d(x, 2), x=MAPS),
    "max_pool2d overlapping": op(lambda x: F.max_pool2d(x, 3, 2, 1), x=MAPS),
    "max_pool2d dilated": op(lambda x: F.max_pool2d(x, 3, 1, dilation=2), x=MAPS),
    "max_pool2d ceil": op(lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), x=MAPS),
    "max_pool3d": op(lambda x: F.max_pool3d(x, 2), x=VOLUME),
    "avg_pool1d": op(lambda x: F.avg_pool1d(x, 4, 2, 1), x=(4, 16, 67)),
    "avg_pool2d": op(lambda x: F.avg_pool2d(x, 2), x=MAPS),
    "avg_pool2d padded": op(lambda x: F.avg_pool2d(x, 3, 2, 1), x=MAPS),
    "avg_pool2d exclude": op(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=MAPS),
    "avg_pool2d ceil": op(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), x=MAPS),
    "avg_pool2d divisor": op(lambda x: F.avg_pool2d(x, 3, divisor_override=7), x=MAPS),
    "avg_pool3d": op(lambda x: F.avg_pool3d(x, 2), x=VOLUME),
    "avg_pool3d overlapping": op(lambda x: F.avg_pool3d(x, 3, 1, 1), x=VOLUME),
    "adaptive_avg_pool1d": op(lambda x: F.adaptive_avg_pool1d(x, 7), x=(4, 16, 67)),
    "adaptive_avg_pool2d": op(lambda x: F.adaptive_avg_pool2d(x, 1), x=MAPS),
    "adaptive_avg_pool2d 7": op(lambda x: F.adaptive_avg_pool2d(x, 7), x=MAPS),
    "adaptive_avg_pool2d 6x5": op(lambda x: F.adaptive_avg_pool2d(x, (6, 5)), x=(2, 16, 13, 11)),
    "adaptive_avg_pool3d": op(lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2)), x=VOLUME),
    "adaptive_max_pool1d": op(lambda x: F.adaptive_max_pool1d(x, 7), x=(4, 16, 67)),
    "adaptive_max_pool2d": op(lambda x: F.adaptive_max_pool2d(x, (6, 5)), x=MAPS),
    "adaptive_max_pool3d": op(lambda x: F.adaptive_max_pool3d(x, (2, 3, 2)), x=VOLUME),
    "lp_pool1d": op(lambda x: F.lp_pool1d(x, 2.0, 3), x=(4, 16, 67)),
    "lp_pool2d": op(lambda x: F.lp_pool2d(x, 2.0, 3), x=MAPS),
    "max_unpool2d": op(_unpool, x=(2, 16, 26, 22)),
    "global mean": op(lambda x: x.mean((2, 3)), x=(2, 16, 56, 56)),
    "pad constant": op(lambda x: F.pad(x, (1, 2, 3, 0), value=0.5), x=MAPS),
    "pad reflect": op(lambda x: F.pad(x, (2, 1, 3, 2), mode="reflect"), x=MAPS),
    "pad replicate": op(lambda x: F.pad(x, (2, 1, 3, 2), mode="replicate"), x=MAPS),
    "pad circular": op(lambda x: F.pad(x, (2, 1, 3, 2), mode="circular"), x=MAPS),
    "pad reflect 1d": op(lambda x: F.pad(x, (3, 3), mode="reflect"), x=(4, 16, 33)),
    "pixel_shuffle": op(lambda x: F.pixel_shuffle(x, 2), x=MAPS),
    "pixel_unshuffle": op(lambda x: F.pixel_unshuffle(x, 2), x=(2, 4, 26, 22)),
    "channel_shuffle": layer(lambda: nn.ChannelShuffle(4), MAPS),
}
