"""Rounding noise in NumPy: the error budget of a reference in float64 NumPy, from its re-runs.

A `NoisyArray` is an ndarray whose operations get the noise of noise.py: each float64 result moves by

    xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

The reference must compute with NumPy functions on arrays that come from `wrap`. Noise ends at `np.asarray(x)` (not at
`np.asanyarray(x)`), `math.sqrt(x)`, `float(x)`, `x.astype(np.float32)`, complex numbers, and at
`out = np.zeros(shape); out[i] = x` (not at `np.zeros_like(x)`).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import numpy_rules as rules
from .errors import Array, Arrays, check_repeatable, error_budget, whole_or_float64

Wrap = Callable[[Any], Any]


class Noise:
    """Adds the noise.

    Attributes:
        noised: How often each operation got noise.
        unknown_ops: Functions that no table has and that NumPy computes in one piece; they count as one rounding.
    """

    def __init__(self, u: float, u_acc: float, tiny: float, seed: int) -> None:
        self.u, self.u_acc, self.tiny = u, u_acc, tiny
        self.noised: Counter[str] = Counter()
        self.unknown_ops: set[str] = set()
        self._rng = np.random.default_rng(seed)
        self._table = self._draw(2**17)

    def wrap(self, values: Any) -> "NoisyArray":
        """Return a copy whose operations are noisy."""
        array = np.array(values, np.float64).view(NoisyArray)
        array.noise = self
        return array

    def perturb(self, name: str, out: Array, k: float = 1.0, magnitude: Any = None) -> None:
        """Add to `out`, in place: k roundings, a flush to zero, and u_acc * magnitude."""
        if out.size == 0:
            return
        self.noised[name] += 1
        with np.errstate(all="ignore"):
            out += np.clip(out, -self.tiny, self.tiny) * self._signs(out.shape)
            out *= 1.0 + k * self.u * self._signs(out.shape)  # as a factor, which keeps infinities
            if magnitude is not None:
                terms = np.nan_to_num(magnitude, nan=0.0, posinf=0.0, neginf=0.0)
                out += self.u_acc * terms * self._signs(out.shape)

    def _draw(self, size: int) -> Array:
        return 1.0 - 2.0 * self._rng.integers(0, 2, size).astype(np.float64)

    def _signs(self, shape: tuple[int, ...]) -> Array:
        """Read signs from a random place of the table: drawing each sign would cost most."""
        size = math.prod(shape)
        while 2 * size > self._table.size:
            self._table = np.concatenate([self._table, self._draw(self._table.size)])
        start = int(self._rng.integers(self._table.size - size + 1))
        signs: Array = self._table[start : start + size].reshape(shape)
        return signs


class NoisyArray(np.ndarray[Any, np.dtype[np.float64]]):
    """A float64 array whose operations get rounding noise."""

    noise: Noise | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.noise = getattr(parent, "noise", None)

    def __getitem__(self, key: Any) -> Any:
        return self._wrapped(super().__getitem__(key), self.noise)

    def dot(self, other: Any, out: Any = None) -> Any:
        return np.dot(self, other) if out is None else np.dot(self, other, out=out)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        noise = _noise_of(inputs, kwargs)
        plain, options = [_plain(a) for a in inputs], {key: _plain(a) for key, a in kwargs.items()}
        magnitude, k = None, 1.0
        name = ufunc.__name__
        exact = name in rules.EXACT_UFUNCS
        if noise is not None and not exact:
            quiet = {key: a for key, a in options.items() if key not in ("out", "initial")}
            with np.errstate(all="ignore"):
                if name in rules.PRODUCTS:
                    magnitude = rules.absolute(ufunc, method, plain, quiet) * rules.root_of_products(name, plain)
                elif method in ("reduce", "accumulate", "reduceat"):
                    magnitude = rules.absolute(ufunc, method, plain, quiet) * rules.root_of_terms(method, plain, quiet)
                elif method == "__call__" and name not in rules.ARITHMETIC_UFUNCS:
                    k = 2.0
        results = getattr(ufunc, method)(*plain, **options)
        if method == "at":
            # The result does not show the number of terms of each element: one rounding of the whole array.
            if noise is not None and not exact and rules.is_float64(plain[0]):
                noise.perturb(name, plain[0])
            return None
        finished = []
        for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
            if noise is not None and not exact and rules.is_float64(result):
                out = np.asarray(result)
                where = options.get("where", True)
                if method == "__call__" and where is not True:
                    fresh = out.copy()
                    noise.perturb(name, fresh, k)
                    np.copyto(out, fresh, where=where)
                else:
                    noise.perturb(name, out, k, magnitude)
                result = out
            target = kwargs["out"][i] if kwargs.get("out") is not None else None
            finished.append(target if isinstance(target, NoisyArray) else self._wrapped(result, noise))
        return tuple(finished) if isinstance(results, tuple) else finished[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        noise = _noise_of(args, kwargs)
        name = func.__name__
        products = rules.FUNCTIONS.get(name)
        if products is not None:
            plain, options = _plain(args), {key: _plain(a) for key, a in kwargs.items()}
            result = np.asarray(func(*plain, **options))
            if noise is not None and result.dtype == np.float64:
                size, n = products(func, plain, {key: a for key, a in options.items() if key != "out"})
                noise.perturb(name, result, 1.0, size * math.sqrt(n))
            return self._wrapped(kwargs.get("out", result), noise)
        before = noise.noised.total() if noise is not None else 0
        result = super().__array_function__(func, types, args, kwargs)
        # NumPy writes many functions in terms of others, which have added their noise by now.
        if name in rules.EXACT_FUNCTIONS or noise is None or noise.noised.total() > before:
            return self._wrapped(result, noise)
        noise.unknown_ops.add(f"numpy.{name}")
        wrapped = self._wrapped(result, noise)
        for value in wrapped if isinstance(wrapped, (tuple, list)) else (wrapped,):
            if isinstance(value, NoisyArray):
                noise.perturb(name, value.view(np.ndarray))
        return wrapped

    @classmethod
    def _wrapped(cls, value: Any, noise: Noise | None) -> Any:
        """Return a float64 result as a NoisyArray on the same memory, 0-d for a scalar, and others plain."""
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(cls._wrapped(v, noise) for v in value)
        if isinstance(value, list):
            return [cls._wrapped(v, noise) for v in value]
        if not isinstance(value, (np.ndarray, np.float64)):
            return value
        if value.dtype != np.float64:
            return np.asarray(value).view(np.ndarray) if isinstance(value, NoisyArray) else value
        array = np.asarray(value).view(cls)
        array.noise = noise
        return array


def budget_numpy(
    evaluate: Callable[[Wrap], Mapping[Any, Any]],
    u: float,
    u_acc: float,
    tiny: float,
    *,
    samples: int = 16,
    seed: int = 0,
) -> tuple[Arrays, Arrays]:
    """Return the float64 reference of `evaluate`, and how far rounding may carry each element from the reference.

    Arguments and results are those of `noise.budget`, but for `evaluate`: evaluate(wrap) computes named arrays in NumPy
    from the same inputs at each call, each of which it passes through `wrap`.

    Raises:
        RuntimeError: No operation was seen, or two clean runs differ.
    """
    noise = Noise(u, u_acc, tiny, seed)

    def run(wrap: Wrap) -> Arrays:
        return {name: whole_or_float64(a) for name, a in evaluate(wrap).items()}

    clean = run(plain_array)
    errors = error_budget(clean, (run(noise.wrap) for _ in range(samples)), u, tiny)
    if samples and not noise.noised:
        raise RuntimeError(
            "No operation of the reference was seen: it takes its inputs out of the arrays that `wrap` returns, as "
            "np.asarray(x) does. Write np.asanyarray(x)."
        )
    check_repeatable(clean, run(plain_array), errors)
    return clean, errors


def plain_array(values: Any) -> Array:
    """Copy an array to float64: the `wrap` of a run without noise."""
    return np.array(values, np.float64)


def _noise_of(args: Any, kwargs: Mapping[str, Any]) -> Noise | None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, NoisyArray) and value.noise is not None:
            return value.noise
        if isinstance(value, (tuple, list)) and (inner := _noise_of(value, {})) is not None:
            return inner
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, NoisyArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(v) for v in value)
    return value
