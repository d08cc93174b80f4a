"""Probes of sums: in which precision a framework adds up, and whether it overflows on the way.

A row holds +LARGE and -LARGE at two places and `small` everywhere else. `small` is so small that in half precision even
the sum of all of them is lost when it meets LARGE, and so large that in float32 none of them is lost. So a row's sum
tells how many terms did not meet LARGE in half precision, whatever the order of the summation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .primitives import DTYPES, SIGNAL, Primitives, channels_last, channels_native, convolve, seeded, wide

LARGE = 49152.0  # 1.5 * 2^15: the gap to the next float16 is 32 on either side, to the next float32 2^-8
NEAR = (9, 17)


def small(n: int) -> float:
    """Return the power of two of which n add up to more than 4 and at most 16, half of LARGE's gap in float16."""
    return 2.0 ** (4 - (n - 1).bit_length())


def rows(count: int, n: int) -> np.ndarray:
    """Return (count, n): +LARGE and -LARGE at two random places of each row, near to each other in every second row."""
    rng = seeded()
    first, far, near = rng.integers(n, size=count), rng.integers(1, n, size=count), rng.integers(*NEAR, size=count)
    second = (first + np.where((np.arange(count) % 2 == 0) | (n <= NEAR[1]), far, near)) % n
    data = np.full((count, n), small(n))
    data[np.arange(count), first] = LARGE
    data[np.arange(count), second] = -LARGE
    return data


def accumulator(sums: np.ndarray, n: int, dtype: str) -> str:
    """Decide from the sums of `rows(..., n)`: "float32" (or wider), the half dtype itself, or "mixed".

    In half precision a row comes out whole only if +LARGE and -LARGE meet before anything else meets them, which is
    rare in any order. Where it is not, blocks are summed in float32 (near places share one), or one of two layouts is.
    """
    whole = float(np.mean(np.abs(sums / ((n - 2) * small(n)) - 1) < 0.005))
    return "float32" if whole == 1 else dtype if whole < 0.15 else "mixed"


def reduction(p: Primitives, dtype: str, op: str) -> str:
    """Sum or average along the last axis and along a middle axis, for which frameworks have different loops."""
    n = 1024
    data = rows(256, n)
    middle = np.ascontiguousarray(data.reshape(4, 64, n).swapaxes(1, 2))
    results = [wide(p, getattr(p, op)(p.tensor(x.astype(DTYPES[dtype])), 1)).ravel() for x in (data, middle)]
    return accumulator(np.concatenate(results) * (n if op == "mean" else 1), n, dtype)


def matmul(p: Primitives, dtype: str) -> str:
    n = 1024
    ones = p.tensor(np.ones((n, 16), DTYPES[dtype]))
    return accumulator(wide(p, p.matmul(p.tensor(rows(256, n).astype(DTYPES[dtype])), ones)), n, dtype)


def conv1d(p: Primitives, dtype: str) -> str:
    """Convolve one channel by a kernel of 9 ones, as ECA does; at place 16 of 33 the kernel covers the whole row."""
    n = 9
    data = np.zeros((128, 33, 1))
    data[:, 12:21, 0] = rows(128, n)
    out = wide(p, convolve(p, data, np.ones(n), dtype))
    return accumulator(channels_last(p, out)[:, 16, 0], n, dtype)


def gate_gradient(p: Primitives, dtype: str) -> str:
    """Differentiate x * g by g, which is (1, 1, 1, C) and broadcast: the gradient is a sum over a map of 56x56."""
    n = 56 * 56
    return accumulator(gate_sums(p, rows(64, n), dtype), n, dtype)


def bias_gradient(p: Primitives, dtype: str) -> str:
    """Differentiate x + b by b, one for each channel: the gradient is the sum of 1024 cotangents."""
    return _columns(p, dtype, lambda x, b: p.add(x, b))


def norm_gradient(p: Primitives, dtype: str) -> str:
    """Differentiate a layer normalisation by its bias in the same way."""
    return _columns(p, dtype, p.layer_norm)


def _columns(p: Primitives, dtype: str, op: Callable[[Any, Any], Any]) -> str:
    """Differentiate op(x, b) by b, where x is (1024, 64), b is (64,) and the gradient is a sum down each column."""
    n, channels = 1024, 64
    x = p.tensor(seeded().normal(size=(n, channels)).astype(DTYPES[dtype]))
    cotangent = p.tensor(np.ascontiguousarray(rows(channels, n).T).astype(DTYPES[dtype]))
    bias = p.tensor(np.zeros(channels, DTYPES[dtype]))
    return accumulator(wide(p, p.vjp(lambda b: op(x, b), bias, cotangent)), n, dtype)


def gate_gradient_error(p: Primitives, dtype: str) -> float:
    """Return the largest relative error of a gate's gradient on a map of one sign, as a ReLU gives; to two digits."""
    data = np.abs(seeded().normal(size=(64, 56 * 56))).astype(DTYPES[dtype])
    exact = data.astype(np.float64).sum(axis=1)
    return float(f"{np.max(np.abs(gate_sums(p, data, dtype) / exact - 1)):.1e}")


def gate_sums(p: Primitives, data: np.ndarray, dtype: str) -> np.ndarray:
    channels = len(data)
    x = p.tensor(channels_native(p, data.T.reshape(1, 56, 56, channels).astype(DTYPES[dtype])))
    gate = p.tensor(channels_native(p, np.ones((1, 1, 1, channels), DTYPES[dtype])))
    ones = p.tensor(channels_native(p, np.ones((1, 56, 56, channels), DTYPES[dtype])))
    return wide(p, p.vjp(lambda g: p.multiply(x, g), gate, ones)).ravel()


def kernel_gradient(p: Primitives, dtype: str) -> str:
    """Differentiate a one-channel convolution by its middle weight, row by row: the gradient is a sum over the row."""
    n = 1024
    kernel = p.tensor(np.ones((3, 1, 1), DTYPES[dtype]))
    ones = p.tensor(channels_native(p, np.ones(SIGNAL, DTYPES[dtype])))
    inputs = [channels_native(p, row.reshape(SIGNAL).astype(DTYPES[dtype])) for row in rows(8, n)]
    grads = [p.vjp(partial(p.conv1d, p.tensor(x)), kernel, ones) for x in inputs]
    return accumulator(np.array([wide(p, grad)[1, 0, 0] for grad in grads]), n, dtype)


WINDOW = 16  # a power of two: the division by it is exact


def window_sum(p: Primitives, dtype: str) -> str:
    """Average windows of 16, as a pooling does; the map is one window long."""
    data = rows(128, WINDOW)[..., None]
    x = p.tensor(channels_native(p, data.astype(DTYPES[dtype])))
    return accumulator(wide(p, p.window_mean(x, WINDOW)).ravel() * WINDOW, WINDOW, dtype)


def window_gradient(p: Primitives, dtype: str) -> str:
    """Differentiate that by the one place that all of 16 windows cover: the gradient is the sum of their cotangents."""
    x = p.tensor(channels_native(p, np.zeros((128, 2 * WINDOW - 1, 1), DTYPES[dtype])))
    cotangent = p.tensor(channels_native(p, rows(128, WINDOW)[..., None].astype(DTYPES[dtype])))
    grad = channels_last(p, wide(p, p.vjp(lambda x: p.window_mean(x, WINDOW), x, cotangent)))
    return accumulator(grad[:, WINDOW - 1, 0] * WINDOW, WINDOW, dtype)


def overflow(p: Primitives, op: str) -> str:
    """Average 2e4..6e4, or sum 40000s of mixed sign to 100: results are within float16, and partial sums are not."""
    rng = seeded()
    data = {"mean": rng.uniform(2e4, 6e4, (256, 1024)), "sum": np.tile(np.repeat([4e4, -4e4], 512), (256, 1))}[op]
    data = rng.permuted(data, axis=1)
    if op == "sum":
        data[:, -1] += 100
    out = wide(p, getattr(p, op)(p.tensor(data.astype(np.float16)), 1))
    return "finite" if np.isfinite(out).all() else "overflows"
