"""ECA's passes over a feature map by the kernels of batch normalisation on the CPU.

At inference batch normalisation is y = x * scale + shift, and its gradients by scale and shift are sum(dy * x) and
sum(dy): the passes that ECA needs. The kernels read each map once, compute half precision in float32, and allocate
nothing of the map's size. A map is rows (N * C, S, 1) or columns (N, S, C), as in `feature_map`.

They add one position after the other in float32, rows by the lanes of a vector, at least eight. So cut the positions
into runs: a long sum would drift.
"""

from functools import lru_cache

import torch
from torch import Tensor

LONGEST = 1 << 11  # positions that are added one after the other
LANES = 8
SHORTEST = 1 << 6  # a run, if it is not a whole row or column: a kernel keeps some numbers for each


def can_sum(x: Tensor) -> bool:
    """Whether the positions can be cut into equal runs."""
    return _run(x) > 0


def sums(x: Tensor) -> Tensor:
    return _gradient(x, x, 2)


def products(x: Tensor, dy: Tensor) -> Tensor:
    """The sums of x * dy."""
    return _gradient(x, dy, 1)


def scaled(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """out = x * scale + shift, rounded once."""
    images = _images(x)
    mean, var = _identity(images)
    unused = mean.new_empty(0)
    rows = (t.view(len(images), -1) for t in (scale, shift))
    for image, g, s, y in zip(images, *rows, _images(out), strict=True):
        torch.native_batch_norm(image, g, s, mean, var, False, 0.0, 0.0, out=(y, unused, unused))


def _gradient(x: Tensor, dy: Tensor, which: int) -> Tensor:
    """Of batch normalisation's gradients by (x, scale, shift) one, (N * C, 1) of rows or (N, C) of columns."""
    count, positions, channels = x.shape
    runs = positions // _run(x)
    # Runs of a row are rows. Of columns, each run takes every so many positions, as columns of its own.
    cut = (count * runs, -1, 1) if channels == 1 else (count, -1, runs * channels)
    images, wanted = _images(x.view(cut)), [i == which for i in range(3)]
    mean, var = _identity(images)
    backward = torch.ops.aten.native_batch_norm_backward
    gradients = [
        backward(d, image, None, mean, var, None, None, False, 0.0, wanted)[which]
        for image, d in zip(images, _images(dy.view(cut)), strict=True)
    ]
    return torch.stack(gradients).view(count, runs, channels).sum(1)


def _run(x: Tensor) -> int:
    _, positions, channels = x.shape
    return _longest_run(positions, LONGEST * LANES if channels == 1 else LONGEST)


@lru_cache(maxsize=1024)
def _longest_run(positions: int, longest: int) -> int:
    """The most positions, up to `longest`, that divide all; 0 if those are few."""
    if positions <= longest:
        return positions
    return next((n for n in range(longest, SHORTEST - 1, -1) if positions % n == 0), 0)


def _images(maps: Tensor) -> tuple[Tensor, ...]:
    """All rows as one image with as many channels, or each sample's columns as one that has its channels last."""
    if maps.shape[2] == 1:
        return (maps.view(1, len(maps), -1),)
    return torch.split(maps.movedim(2, 1)[..., None], 1)


def _identity(images: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The mean and the variance with which nothing is normalised."""
    mean = torch.zeros(images[0].shape[1], dtype=torch.promote_types(images[0].dtype, torch.float32))
    return mean, torch.ones_like(mean)
