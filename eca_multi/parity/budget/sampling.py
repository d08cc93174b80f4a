"""The steps of grid sampling: a place for each position of the grid, and the weights of its neighbours."""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch

from .interpolation import cubic, triangle

BILINEAR, NEAREST, BICUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2


def grid_sample(x: torch.Tensor, grid: torch.Tensor, interpolation: int, padding: int, corners: bool) -> torch.Tensor:
    """Sample x (n, c, *sizes) at grid (n, *out, d), whose last axis goes from the last axis of x to its first."""
    sizes = x.shape[2:]
    coordinates = [grid[..., -1 - axis] for axis in range(len(sizes))]
    places = [_place(a, size, corners) for a, size in zip(coordinates, sizes, strict=True)]
    if interpolation == BICUBIC:
        return _sums(x, places, range(-1, 3), cubic, [partial(_padded, size, padding, corners) for size in sizes])
    places = [_inside(place, size, padding, corners) for place, size in zip(places, sizes, strict=True)]
    if interpolation == NEAREST:
        return _taken(x, [place.round().long() for place in places])
    return _sums(x, places, range(2), triangle, [lambda place: place] * len(sizes))


def _sums(
    x: torch.Tensor,
    places: list[torch.Tensor],
    taps: range,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    moved: list[Callable[[torch.Tensor], torch.Tensor]],
) -> torch.Tensor:
    """Sum the neighbours of each place by their weights; `moved` says where a neighbour outside is taken from."""
    lows = [place.floor().long() for place in places]
    total = x.new_zeros(())
    for steps in product(taps, repeat=len(places)):
        at = [low + step for low, step in zip(lows, steps, strict=True)]
        term = _taken(x, [move(i) for move, i in zip(moved, at, strict=True)])
        for place, i in zip(places, at, strict=True):
            term = term * kernel(place - i)[:, None]
        total = total + term
    return total


def _taken(x: torch.Tensor, at: list[torch.Tensor]) -> torch.Tensor:
    """Return the elements of x at integer places, and zeros outside."""
    sizes = x.shape[2:]
    inside = torch.stack([(i >= 0) & (i < size) for i, size in zip(at, sizes, strict=True)]).all(0)
    flat = torch.zeros_like(at[0])
    for i, size in zip(at, sizes, strict=True):
        flat = flat * size + i.clamp(0, size - 1)
    n, c = x.shape[:2]
    taken = x.reshape(n, c, -1).gather(2, flat.reshape(n, 1, -1).expand(n, c, -1)).reshape(n, c, *flat.shape[1:])
    return torch.where(inside[:, None], taken, 0)


def _place(coordinate: torch.Tensor, size: int, corners: bool) -> torch.Tensor:
    """Return the place in units of elements: coordinates -1 and 1 are the outer elements' centres, or their edges."""
    return (coordinate + 1) * ((size - 1) / 2) if corners else ((coordinate + 1) * size - 1) / 2


def _inside(place: torch.Tensor, size: int, padding: int, corners: bool) -> torch.Tensor:
    """Move a place outside to where its padding comes from."""
    if padding == ZEROS:
        return place
    if padding == REFLECTION:
        low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        distance = (place - low).abs()
        flips = (distance / max(span, 0.5)).floor()
        rest = distance - flips * span
        place = torch.where(flips % 2 == 0, rest + low, low + span - rest) if span else place * 0
    inside = (place > 0) & (
        place < size - 1
    )  # clamp would pass a gradient at the edge, where PyTorch's kernels stop it
    return torch.where(inside, place, place.detach().clamp(0, size - 1))


def _padded(size: int, padding: int, corners: bool, i: torch.Tensor) -> torch.Tensor:
    """Move an integer place outside to where its padding comes from."""
    if padding == REFLECTION:
        period = max(2 * (size - 1), 1) if corners else 2 * size
        i = i % period
        i = torch.where(i < size, i, (period if corners else period - 1) - i)
    return i if padding == ZEROS else i.clamp(0, size - 1)
