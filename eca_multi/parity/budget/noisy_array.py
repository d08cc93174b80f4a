"""Rounding noise in NumPy: the error budget of a reference that is written in float64 NumPy, from its re-runs.

A `NoisyArray` is an ndarray whose operations give what engines/_noise.py gives in PyTorch: each float64 result moves by

    xi * (k * u * |out| + u_acc * sqrt(n) * op(|in|) + min(tiny, |out|)),    xi = +1 or -1 per element and term

The reference must compute with NumPy functions on arrays that come from `wrap`. What leaves them is not followed:
`np.asarray(x)` (`np.asanyarray(x)` is), `math.sqrt(x)`, `float(x)`, `x.astype(np.float32)`, complex numbers, and
`out = np.zeros(shape); out[i] = x` (`np.zeros_like(x)` is).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[Any, Array]  # by the name or quantity that an evaluation gives them
Wrap = Callable[[Any], Any]

# Stands for any error at all: a re-run is not finite where the reference is, so the layer is at the edge of where it is
# defined, and a correct one may go either way. Divided, so that c * E does not overflow.
UNBOUNDED = float(np.finfo(np.float64).max) / 1024


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elementwise operations that copy or select.
EXACT_UFUNCS = _words(
    "negative positive absolute fabs sign maximum minimum fmax fmin floor ceil trunc rint copysign heaviside conjugate "
    "nextafter spacing clip frexp modf"
)

# Rounded once; any other elementwise operation counts as transcendental.
ARITHMETIC_UFUNCS = _words("add subtract multiply divide reciprocal sqrt square fmod remainder floor_divide ldexp")

PRODUCTS = _words("matmul vecdot matvec vecmat")

# Functions that copy, select or make arrays.
EXACT_FUNCTIONS = _words(
    """
    where concatenate stack hstack vstack dstack column_stack block pad roll flip fliplr flipud rot90 tile repeat
    reshape ravel transpose permute_dims swapaxes moveaxis rollaxis expand_dims squeeze broadcast_to broadcast_arrays
    atleast_1d atleast_2d atleast_3d array_split split hsplit vsplit dsplit unstack copy copyto array_equal
    array_equiv take take_along_axis put put_along_axis putmask place choose compress extract select diag diagonal
    diagflat tril triu zeros_like ones_like full_like empty_like sort argsort partition argpartition max min amax amin
    argmax argmin nanmax nanmin nanargmax nanargmin median nanmedian searchsorted unique nonzero flatnonzero argwhere
    count_nonzero insert delete append resize trim_zeros clip round around sliding_window_view as_strided real imag
    isclose allclose iscomplexobj isrealobj shape ndim size result_type can_cast min_scalar_type common_type
    shares_memory may_share_memory array_repr array_str array2string ix_ fill_diagonal nan_to_num lexsort meshgrid
    """
)


class Noise:
    """Adds the noise.

    Attributes:
        noised: How often each operation got noise.
        unknown_ops: Functions that no table knows and that NumPy computes in one piece; they count as one rounding.
    """

    def __init__(self, u: float, u_acc: float, tiny: float, seed: int) -> None:
        self.u, self.u_acc, self.tiny = u, u_acc, tiny
        self.noised: Counter[str] = Counter()
        self.unknown_ops: set[str] = set()
        self._rng = np.random.default_rng(seed)
        self._table = self._draw(2**17)

    @property
    def count(self) -> int:
        return sum(self.noised.values())

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
            out *= 1.0 + k * self.u * self._signs(out.shape)  # as a factor, which leaves infinities as they are
            if magnitude is not None:
                terms = np.nan_to_num(magnitude, nan=0.0, posinf=0.0, neginf=0.0)
                out += self.u_acc * terms * self._signs(out.shape)

    def _draw(self, size: int) -> Array:
        return 1.0 - 2.0 * self._rng.integers(0, 2, size).astype(np.float64)

    def _signs(self, shape: tuple[int, ...]) -> Array:
        """Read signs from the table at a random place: drawing them costs most otherwise."""
        size = math.prod(shape)
        while 2 * size > self._table.size:
            self._table = np.concatenate([self._table, self._draw(self._table.size)])
        start = int(self._rng.integers(self._table.size - size + 1))
        signs: Array = self._table[start : start + size].reshape(shape)
        return signs


class NoisyArray(np.ndarray[Any, np.dtype[np.float64]]):
    """A float64 array whose operations are followed by rounding noise."""

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
        exact = name in EXACT_UFUNCS
        if noise is not None and not exact:
            quiet = {key: a for key, a in options.items() if key not in ("out", "initial")}
            with np.errstate(all="ignore"):
                if name in PRODUCTS:
                    magnitude = _absolute(ufunc, method, plain, quiet) * math.sqrt(_terms_of_product(name, plain))
                elif method in ("reduce", "accumulate", "reduceat"):
                    magnitude = _absolute(ufunc, method, plain, quiet) * _root_of_terms(method, plain, quiet)
                elif method == "__call__" and name not in ARITHMETIC_UFUNCS:
                    k = 2.0
        results = getattr(ufunc, method)(*plain, **options)
        if method == "at":
            # What was added where is not known from the result: one rounding of all that it wrote into.
            if noise is not None and not exact and _is_float64(plain[0]):
                noise.perturb(name, plain[0])
            return None
        finished = []
        for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
            if noise is not None and not exact and _is_float64(result):
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
        products = FUNCTIONS.get(name)
        if products is not None:
            plain, options = _plain(args), {key: _plain(a) for key, a in kwargs.items()}
            result = np.asarray(func(*plain, **options))
            if noise is not None and result.dtype == np.float64:
                size, n = products(func, plain, {key: a for key, a in options.items() if key != "out"})
                noise.perturb(name, result, 1.0, size * math.sqrt(n))
            return self._wrapped(kwargs.get("out", result), noise)
        before = noise.count if noise is not None else 0
        result = super().__array_function__(func, types, args, kwargs)
        # NumPy writes many functions in terms of others, which have added their noise by now.
        if name in EXACT_FUNCTIONS or noise is None or noise.count > before:
            return self._wrapped(result, noise)
        noise.unknown_ops.add(f"numpy.{name}")
        wrapped = self._wrapped(result, noise)
        for value in wrapped if isinstance(wrapped, (tuple, list)) else (wrapped,):
            if isinstance(value, NoisyArray):
                noise.perturb(name, value.view(np.ndarray))
        return wrapped

    @classmethod
    def _wrapped(cls, value: Any, noise: Noise | None) -> Any:
        """Return a float64 result as a NoisyArray on the same memory, 0-d instead of a scalar, and others plain."""
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
    """Return the float64 reference of `evaluate` and how far, element by element, rounding may carry one from it.

    Args:
        evaluate: Computes named arrays in NumPy from the same inputs at each call, each input passed through the
            function that it is given. It must not draw random numbers nor keep state. Called samples + 2 times.
        u: Unit roundoff of the dtype under test.
        u_acc: Unit roundoff of its accumulator.
        tiny: Smallest normal number of the dtype.
        samples: Number of noisy runs.
        seed: Of the noise; the same one gives the same budget.

    Returns:
        (reference, E), both by name and in float64; integers and booleans of the reference stay what they are. E is
        positive and finite where the reference is finite, and NaN elsewhere.

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


def whole_or_float64(values: Any) -> Array:
    """A copy in float64; of integers and booleans, which are judged exactly, one as they are."""
    return np.array(values, None if np.asarray(values).dtype.kind in "biu" else np.float64)


def plain_array(values: Any) -> Array:
    """What `wrap` is in a clean run."""
    return np.array(values, np.float64)


def error_budget(reference: Arrays, runs: Iterable[Arrays], u: float, tiny: float) -> Arrays:
    """Return max(u * |reference| + tiny, max |run - reference|), element by element.

    Where the reference is not finite, E is NaN: those elements are judged by what they are. Where it is and a run is
    not, E is UNBOUNDED.
    """
    reference = {name: r.astype(np.float64) for name, r in reference.items()}
    errors = {name: np.asarray(u * np.abs(r) + tiny) for name, r in reference.items()}
    with np.errstate(all="ignore"):
        for run in runs:
            for name, r in reference.items():
                difference = np.asarray(run[name] - r)
                np.maximum(errors[name], np.abs(difference, out=difference), out=errors[name])  # keeps NaN
    for name, r in reference.items():
        errors[name][~(errors[name] < UNBOUNDED)] = UNBOUNDED
        errors[name][~np.isfinite(r)] = np.nan
    return errors


def check_repeatable(first: Arrays, second: Arrays, errors: Arrays) -> None:
    """Raise RuntimeError where a second clean run differs by more than the order of float64 sums explains."""
    for name, r in first.items():
        with np.errstate(all="ignore"):
            differs = np.abs(second[name] - r.astype(np.float64)) > errors[name] * 2.0**-10
        if differs.any():
            raise RuntimeError(
                f"Two float64 runs of the reference differ in {str(name)!r}: it keeps state or draws random numbers, "
                "so its error cannot be measured. Set its state (running statistics, masks) anew at each call."
            )


def _noise_of(args: Any, kwargs: Mapping[str, Any]) -> Noise | None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, NoisyArray) and value.noise is not None:
            return value.noise
        if isinstance(value, (tuple, list)):
            found = _noise_of(value, {})
            if found is not None:
                return found
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, NoisyArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(v) for v in value)
    return value


def _is_float64(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.float64)) and value.dtype == np.float64


def _absolute(ufunc: np.ufunc, method: str, inputs: list[Any], options: dict[str, Any]) -> Any:
    return getattr(ufunc, method)(*(np.abs(a) if _is_float64(np.asarray(a)) else a for a in inputs), **options)


def _terms_of_product(name: str, inputs: list[Any]) -> int:
    return int(np.asarray(inputs[1] if name == "vecmat" else inputs[0]).shape[-1 if name != "vecmat" else -2])


def _root_of_terms(method: str, inputs: list[Any], options: Mapping[str, Any]) -> Any:
    """Return the root of the number of terms in each result of a reduction."""
    x = np.asarray(inputs[0])
    axis = options.get("axis", 0)
    if method == "reduceat":
        return math.sqrt(x.shape[axis])
    if method == "accumulate":
        count = np.sqrt(np.arange(1.0, x.shape[axis] + 1))
        return count.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.sqrt(math.prod(x.shape[a] for a in axes)) if x.ndim else 1.0


def _abs_args(func: Any, args: Any, options: Mapping[str, Any]) -> Any:
    return func(*(np.abs(a) if _is_float64(a) else a for a in args), **options)


def _einsum(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = _abs_args(func, args, options)
    if isinstance(args[0], str):
        total = dict(zip(args[0].split("->")[0].replace(" ", "").split(","), args[1:], strict=False))
        lengths: dict[str, int] = {}
        for letters, operand in total.items():
            if "." not in letters:
                lengths |= zip(letters, np.shape(operand), strict=True)
        summed = set(lengths) - set(args[0].split("->")[1]) if "->" in args[0] else set(lengths)
        return size, math.prod(lengths[c] for c in summed)
    return size, math.prod(np.shape(args[0])) / max(np.size(size), 1)


def _tensordot(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = _abs_args(func, args, options)
    # (M, K) times (K, N): the sizes' quotient is K * K.
    return size, math.sqrt(np.size(args[0]) * np.size(args[1]) / max(np.size(size), 1))


def _norm(func: Any, args: Any, options: Mapping[str, Any]) -> tuple[Any, float]:
    size = func(*args, **options)
    return size, np.size(args[0]) / max(np.size(size), 1)


FUNCTIONS: dict[str, Callable[[Any, Any, Mapping[str, Any]], tuple[Any, float]]] = {
    "einsum": _einsum,
    "dot": lambda f, a, o: (_abs_args(f, a, o), np.shape(a[0])[-1] if np.ndim(a[0]) else 1),
    "inner": lambda f, a, o: (_abs_args(f, a, o), np.shape(a[0])[-1] if np.ndim(a[0]) else 1),
    "vdot": lambda f, a, o: (_abs_args(f, a, o), np.size(a[0])),
    "tensordot": _tensordot,
    "norm": _norm,
    "vector_norm": _norm,
    "convolve": lambda f, a, o: (_abs_args(f, a, o), min(np.size(a[0]), np.size(a[1]))),
    "correlate": lambda f, a, o: (_abs_args(f, a, o), min(np.size(a[0]), np.size(a[1]))),
}
