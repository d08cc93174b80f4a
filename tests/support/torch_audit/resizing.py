"""Resizing and sampling: weights that are themselves rounded."""

import numpy as np
import torch
import torch.nn.functional as F

from .operation import op


def _resize(mode, size, to, **options):
    return op(lambda x: F.interpolate(x, size=to, mode=mode, **options), x=(2, 6, *size))


def _grid(rng, n=2, size=(9, 8), dims=2):
    return rng.uniform(-1.1, 1.1, (n, *size, dims))


def _grid3d(rng):
    return rng.uniform(-1.1, 1.1, (2, 4, 5, 6, 3))


def _theta(rng):
    return np.tile([[1.0, 0.2, 0.1], [-0.3, 0.9, -0.2]], (2, 1, 1)) + 0.05 * rng.normal(size=(2, 2, 3))


def _transformer(x, theta):
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def _sample(mode, padding, corners):
    return op(
        lambda x, grid: F.grid_sample(x, grid, mode, padding, align_corners=corners), x=(2, 6, 13, 11), grid=_grid
    )


SIZES = [((13, 11), (6, 5)), ((28, 28), (10, 10)), ((32, 32), (24, 24)), ((7, 7), (5, 5)), ((7, 9), (23, 31))]

RESIZING = {
    **{f"bilinear {a}-{b}": _resize("bilinear", a, b) for a, b in SIZES},
    **{f"bicubic {a}-{b}": _resize("bicubic", a, b) for a, b in SIZES},
    "bilinear corners": _resize("bilinear", (13, 11), (29, 17), align_corners=True),
    "bicubic corners": _resize("bicubic", (13, 11), (29, 17), align_corners=True),
    "bilinear x2": op(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), x=(2, 6, 13, 11)),
    "bilinear x1.7": op(lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), x=(2, 6, 13, 11)),
    "bilinear antialias": _resize("bilinear", (28, 27), (10, 11), antialias=True),
    "bicubic antialias": _resize("bicubic", (28, 27), (10, 11), antialias=True),
    "bilinear antialias up": _resize("bilinear", (13, 11), (29, 17), antialias=True),
    "resize linear": _resize("linear", (67,), (41,)),
    "resize linear up": _resize("linear", (33,), (71,), align_corners=True),
    "trilinear": _resize("trilinear", (7, 6, 5), (5, 9, 7)),
    "nearest": _resize("nearest", (13, 11), (29, 17)),
    "nearest down": _resize("nearest", (28, 27), (10, 11)),
    "nearest-exact": _resize("nearest-exact", (13, 11), (29, 17)),
    "nearest 1d": _resize("nearest", (67,), (41,)),
    "nearest 3d": _resize("nearest", (7, 6, 5), (5, 9, 7)),
    "area": _resize("area", (28, 27), (10, 11)),
    **{
        f"grid_sample {mode} {padding} {'corners' if corners else ''}".strip(): _sample(mode, padding, corners)
        for mode in ("bilinear", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for corners in (False, True)
    },
    "grid_sample nearest": op(
        lambda x, g: F.grid_sample(x, g, "nearest", align_corners=False), x=(2, 6, 13, 11), g=_grid
    ),
    "grid_sample 3d": op(lambda x, g: F.grid_sample(x, g, align_corners=False), x=(2, 4, 5, 6, 7), g=_grid3d),
    "affine_grid": op(lambda theta: F.affine_grid(theta, [2, 3, 9, 8], align_corners=False), theta=_theta),
    "spatial transformer": op(_transformer, x=(2, 6, 13, 11), theta=_theta),
    "rot90 and flip": op(lambda x: torch.rot90(x, 1, (2, 3)).flip(1), x=(2, 6, 13, 11)),
}
