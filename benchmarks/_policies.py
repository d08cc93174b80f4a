"""Policies in common use: may this result stand for this reference?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eca_multi.parity.define.tensor import Tensor


@dataclass(frozen=True)
class Compared:
    """A result, the reference, the reference rounded to the result's dtype, and the error E of the budget."""

    actual: Tensor
    reference: np.ndarray
    expected: np.ndarray
    error: np.ndarray


Accepts = Callable[[Compared], bool]


def close(rtol: float, atol: float) -> Accepts:
    return lambda pair: bool(np.isclose(pair.actual.values.astype(np.float64), pair.expected, rtol, atol).all())


# torch.testing.assert_close's table.
ASSERT_CLOSE = {"float32": close(1.3e-6, 1e-5), "float16": close(1e-3, 1e-5), "bfloat16": close(1.6e-2, 1e-5)}


def assert_close(pair: Compared) -> bool:
    return ASSERT_CLOSE.get(pair.actual.dtype, close(0.0, 0.0))(pair)


def cosine(pair: Compared) -> bool:
    """Of what is finite; infinities must be the same."""
    a, b = pair.actual.values.astype(np.float64), pair.expected
    finite = np.isfinite(b)
    if not (np.array_equal(a[~finite], b[~finite]) and np.isfinite(a[finite]).all()):
        return False
    return bool(a[finite] @ b[finite] >= 0.99 * np.linalg.norm(a[finite]) * np.linalg.norm(b[finite]))
