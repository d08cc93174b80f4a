"""The probes, written once over the few primitives that each framework supplies: data and decisions, no framework.

What can be measured is measured; the rest (`Primitives.facts`) is what the framework says of itself.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

Tensor = Any
Value = str | int | float | bool
Facts = Mapping[str, Callable[[], Value]]

NOT_APPLICABLE = "n/a"
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
HALVES = ("float16", "bfloat16")


class NotApplicable(Exception):
    """The framework has no such thing, as NumPy has no gradients."""


class Primitives(ABC):
    """What a framework supplies. Tensors are its own; what runs is what a user's layer would run.

    Attributes:
        channel_axis: Where the framework has the channels of a map: 1 or -1.
    """

    channel_axis = -1

    @abstractmethod
    def tensor(self, array: np.ndarray) -> Tensor:
        """Take an array to the framework, in the array's dtype and bit by bit."""

    @abstractmethod
    def numpy(self, tensor: Tensor) -> np.ndarray:
        """Take a tensor back, in its own dtype or a wider one."""

    @abstractmethod
    def add(self, a: Tensor, b: Tensor) -> Tensor: ...

    @abstractmethod
    def multiply(self, a: Tensor, b: Tensor) -> Tensor: ...

    @abstractmethod
    def sum(self, x: Tensor, axis: int) -> Tensor: ...

    @abstractmethod
    def mean(self, x: Tensor, axis: int) -> Tensor: ...

    @abstractmethod
    def matmul(self, a: Tensor, b: Tensor) -> Tensor: ...

    @abstractmethod
    def conv1d(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Correlate (N, L, 1), or (N, 1, L) where channel_axis is 1, with (k, 1, 1): stride 1, zero padding to L."""

    @abstractmethod
    def sigmoid(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def vjp(self, function: Callable[[Tensor], Tensor], at: Tensor, cotangent: Tensor) -> Tensor:
        """Return the gradient of sum(cotangent * function(x)) at x = `at`."""

    def graph(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Compile, where the framework's runners do; else leave as it is."""
        return function

    @abstractmethod
    def facts(self, sample: Tensor) -> Facts:
        """Return what cannot be measured, by the names in `TABLE`; `sample` is a tensor that tells its device."""


@dataclass(frozen=True)
class Probe:
    """One line of a fingerprint. Without `measure` it is one of the framework's `facts`."""

    name: str
    meaning: str
    measure: Callable[[Primitives], Value] | None = None


def fingerprint(primitives: Primitives) -> dict[str, Value]:
    """Run all probes. One that raises says so in its value and leaves the others alone."""
    with np.errstate(all="ignore"):  # overflow and NaN are what some probes are about
        return {
            probe.name: _attempt(partial(probe.measure or partial(_fact, probe.name), primitives)) for probe in TABLE
        }


def _fact(name: str, primitives: Primitives) -> Value:
    facts = primitives.facts(primitives.tensor(np.ones(1, np.float32)))
    return facts[name]() if name in facts else NOT_APPLICABLE


def _attempt(measure: Callable[[], Value]) -> Value:
    try:
        value = measure()
    except NotApplicable:
        return NOT_APPLICABLE
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"error: {type(error).__name__}: {lines[-1]}"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no NaN


def _wide(p: Primitives, tensor: Tensor) -> np.ndarray:
    return p.numpy(tensor).astype(np.float64)


# Probes share shapes where they can: XLA compiles a program for each, which is most of the time it takes.
SIGNAL = (8, 128, 1)
FACTORS = ((8, 512), (512, 64))


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- accumulation -----------------------------------------------------------------------------------------------------
#
# A row holds +LARGE and -LARGE at two places and `small` everywhere else. `small` is so small that in half precision
# even the sum of all of them is lost when it meets LARGE, and so large that in float32 none is. So a row's sum tells
# how many terms did not meet LARGE in half precision, whatever the order of the summation.

LARGE = 49152.0  # 1.5 * 2^15: the gap to the next float16 is 32 on either side, to the next float32 2^-8
NEAR = (9, 17)


def small(n: int) -> float:
    """Return the power of two of which n sum to more than 4 and at most 16, half of LARGE's gap in float16."""
    return 2.0 ** (4 - (n - 1).bit_length())


def rows(count: int, n: int) -> np.ndarray:
    """Return (count, n): +LARGE and -LARGE at two random places of each row, near to each other in every second row."""
    rng = _rng()
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
    """Sum or average along the last axis and along a middle one, which frameworks do by different loops."""
    n = 1024
    data = rows(256, n)
    middle = np.ascontiguousarray(data.reshape(4, 64, n).swapaxes(1, 2))
    results = [_wide(p, getattr(p, op)(p.tensor(x.astype(DTYPES[dtype])), 1)).ravel() for x in (data, middle)]
    return accumulator(np.concatenate(results) * (n if op == "mean" else 1), n, dtype)


def matmul(p: Primitives, dtype: str) -> str:
    n = 1024
    ones = p.tensor(np.ones((n, 16), DTYPES[dtype]))
    return accumulator(_wide(p, p.matmul(p.tensor(rows(256, n).astype(DTYPES[dtype])), ones)), n, dtype)


def conv1d(p: Primitives, dtype: str) -> str:
    """ECA's own convolution, one channel and few taps; the row lies under the kernel at place 16 of 33."""
    n = 9
    data = np.zeros((128, 33, 1))
    data[:, 12:21, 0] = rows(128, n)
    out = _wide(p, _convolve(p, data, np.ones(n), dtype))
    return accumulator(_channels_last(p, out)[:, 16, 0], n, dtype)


def gate_gradient(p: Primitives, dtype: str) -> str:
    """The gradient of g in x * g, with g (1, 1, 1, C) broadcast over a map of 56x56, is a sum over the map."""
    n = 56 * 56
    return accumulator(_gate_gradient(p, rows(64, n), dtype), n, dtype)


def gate_gradient_error(p: Primitives, dtype: str) -> float:
    """The same on a map as a ReLU leaves it: the largest relative error, to two digits."""
    data = np.abs(_rng().normal(size=(64, 56 * 56))).astype(DTYPES[dtype])
    exact = data.astype(np.float64).sum(axis=1)
    return float(f"{np.max(np.abs(_gate_gradient(p, data, dtype) / exact - 1)):.1e}")


def _gate_gradient(p: Primitives, data: np.ndarray, dtype: str) -> np.ndarray:
    channels = len(data)
    x = p.tensor(_channels_native(p, data.T.reshape(1, 56, 56, channels).astype(DTYPES[dtype])))
    gate = p.tensor(_channels_native(p, np.ones((1, 1, 1, channels), DTYPES[dtype])))
    ones = p.tensor(_channels_native(p, np.ones((1, 56, 56, channels), DTYPES[dtype])))
    return _wide(p, p.vjp(lambda g: p.multiply(x, g), gate, ones)).ravel()


def kernel_gradient(p: Primitives, dtype: str) -> str:
    """The gradient of the middle weight of a one-channel convolution is a sum over the input: a call for each row."""
    n = 1024
    kernel = p.tensor(np.ones((3, 1, 1), DTYPES[dtype]))
    ones = p.tensor(_channels_native(p, np.ones(SIGNAL, DTYPES[dtype])))
    inputs = [_channels_native(p, row.reshape(SIGNAL).astype(DTYPES[dtype])) for row in rows(8, n)]
    grads = [p.vjp(partial(p.conv1d, p.tensor(x)), kernel, ones) for x in inputs]
    return accumulator(np.array([_wide(p, grad)[1, 0, 0] for grad in grads]), n, dtype)


def overflow(p: Primitives, op: str) -> str:
    """Averages of 2e4..6e4, and sums of 40000s of mixed sign that come to 100: all within float16, partial sums not."""
    rng = _rng()
    data = {"mean": rng.uniform(2e4, 6e4, (256, 1024)), "sum": np.tile(np.repeat([4e4, -4e4], 512), (256, 1))}[op]
    data = rng.permuted(data, axis=1)
    if op == "sum":
        data[:, -1] += 100
    out = _wide(p, getattr(p, op)(p.tensor(data.astype(np.float16)), 1))
    return "finite" if np.isfinite(out).all() else "overflows"


# --- elements ---------------------------------------------------------------------------------------------------------


def subnormals(p: Primitives, dtype: str) -> str:
    """A subnormal as input and output of an addition, as output of a product, and as input of one."""
    tiny = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
    cases = (
        (p.add, (tiny / 4, tiny / 4), (tiny / 4, tiny / 8), (tiny / 2, tiny * 3 / 8)),
        (p.multiply, (tiny, tiny / 2), (0.5, 2.0), (tiny / 2, tiny)),
    )
    kept: list[bool] = []
    for op, a, b, expected in cases:
        out = _wide(p, op(*(p.tensor(np.repeat(np.array(x).astype(DTYPES[dtype]), 32)) for x in (a, b))))
        kept += [bool((part == value).all()) for part, value in zip(np.split(out, 2), expected, strict=True)]
    return "kept" if all(kept) else "mixed" if any(kept) else "flushed"


# float16 and bfloat16: all negative numbers. float32: two stretches, the first in steps of 0.001.
NEGATIVES: Mapping[str, np.ndarray] = {
    "float32": np.concatenate([np.linspace(-120, -80, 40001), np.linspace(-12, -10, 4001)]).astype(np.float32),
    "float16": np.arange(0x8001, 0xFC00, dtype=np.uint16).view(DTYPES["float16"]),
    "bfloat16": np.arange(0x8001, 0xFF80, dtype=np.uint16).view(DTYPES["bfloat16"]),
}


def sigmoid_cliff(p: Primitives, dtype: str) -> Value:
    zero = _wide(p, p.sigmoid(p.tensor(NEGATIVES[dtype]))) == 0
    return round(float(NEGATIVES[dtype][zero].max()), 3) if zero.any() else "never"


def sigmoid_ulp(p: Primitives, dtype: str) -> float:
    zs = NEGATIVES[dtype].astype(np.float64)
    window = (zs >= -12) & (zs <= -10)
    exact = 1 / (1 + np.exp(-zs[window]))
    info = ml_dtypes.finfo(DTYPES[dtype])
    ulp = np.maximum(2.0 ** (np.floor(np.log2(exact)) - info.nmant), float(info.smallest_subnormal))
    error = np.abs(_wide(p, p.sigmoid(p.tensor(NEGATIVES[dtype])))[window] - exact)
    return round(float(np.max(error / ulp)), 1)


def leak(p: Primitives, dtype: str) -> str:
    """One Inf, then one NaN, at place 10 under a kernel of 3: only places 9 to 11 see it."""
    places: set[int] = set()
    for bad in (np.inf, np.nan):
        x = _rng().normal(size=SIGNAL)
        x[0, 10, 0] = bad
        out = _channels_last(p, _wide(p, _convolve(p, x, np.array([0.5, 1.0, 0.25]), dtype)))[0, :, 0]
        places |= set(np.flatnonzero(~np.isfinite(out)).tolist()) - {9, 10, 11}
    return " ".join(f"{place - 10:+d}" for place in sorted(places)) or "none"


def excess(p: Primitives, dtype: str) -> bool:
    """x * x - y, where y is x * x rounded to the dtype: 0, unless the product was kept wider than the dtype."""
    x = _rng().uniform(1, 2, 1024).astype(DTYPES[dtype])
    y = x * x
    run = p.graph(lambda x, y: p.add(p.multiply(x, x), y))
    return bool(_wide(p, run(p.tensor(x), p.tensor(-y))).any())


# --- float32 inputs, bits ---------------------------------------------------------------------------------------------


def input_precision(p: Primitives, op: str) -> str:
    """What float32 inputs are rounded to: 1 + 2^-9 is no bfloat16, 1 + 2^-20 is no TF32 (10 bits) either."""
    fine, coarse = 1 + 2.0**-20, 1 + 2.0**-9
    out = {value: _times_one(p, op, value) for value in (fine, coarse)}
    return "float32" if out[fine] == fine else "tf32" if out[coarse] == coarse else "bfloat16"


def _times_one(p: Primitives, op: str, value: float) -> float:
    if op == "conv1d":
        return float(_wide(p, _convolve(p, np.full(SIGNAL, value), np.array([0.0, 1.0, 0.0]), "float32")).min())
    a, b = (
        p.tensor(scale * np.eye(*shape, dtype=np.float32)) for scale, shape in zip((value, 1), FACTORS, strict=True)
    )
    return float(np.diag(_wide(p, p.matmul(a, b))).min())


def _batched(p: Primitives, op: str, n: int) -> np.ndarray:
    """Return op of the first n of eight samples, in float32."""
    rng = _rng()
    if op == "matmul":
        x, w = (rng.normal(size=shape).astype(np.float32) for shape in FACTORS)
        return p.numpy(p.matmul(p.tensor(x[:n]), p.tensor(w)))
    if op == "conv1d":
        return p.numpy(_convolve(p, rng.normal(size=SIGNAL)[:n], rng.normal(size=3), "float32"))
    x = _channels_native(p, rng.normal(size=(8, 56 * 56, 16)).astype(np.float32))[:n]
    return p.numpy(p.mean(p.tensor(x), 2 if p.channel_axis == 1 else 1))


def batch_invariant(p: Primitives, op: str) -> bool:
    return np.array_equal(_batched(p, op, 8)[:1], _batched(p, op, 1))


def repeatable(p: Primitives) -> bool:
    """Mean, product and convolution in float32, and the gate's gradient in bfloat16 where there are gradients."""
    runs: list[Callable[[], np.ndarray]] = [partial(_batched, p, op, 8) for op in ("mean", "matmul", "conv1d")]
    data = _rng().normal(size=(64, 56 * 56))
    try:
        _gate_gradient(p, data, "bfloat16")
        runs.append(partial(_gate_gradient, p, data, "bfloat16"))
    except NotApplicable:
        pass
    return all(np.array_equal(run(), run()) for run in runs)


# --- layouts ----------------------------------------------------------------------------------------------------------


def _channels_native(p: Primitives, array: np.ndarray) -> np.ndarray:
    """Move the channels; a fresh copy, for by the strides of an axis of one torch chooses its convolution."""
    return np.moveaxis(array, -1, p.channel_axis).copy(order="C")


def _channels_last(p: Primitives, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, p.channel_axis, -1)


def _convolve(p: Primitives, x: np.ndarray, kernel: np.ndarray, dtype: str) -> Tensor:
    native = p.tensor(_channels_native(p, x.astype(DTYPES[dtype])))
    return p.conv1d(native, p.tensor(kernel.reshape(-1, 1, 1).astype(DTYPES[dtype])))


# --- the table --------------------------------------------------------------------------------------------------------


def _by_dtype(name: str, meaning: str, measure: Callable[..., Value], dtypes: tuple[str, ...]) -> Iterator[Probe]:
    for dtype in dtypes:
        yield Probe(f"{name}.{dtype}", meaning.format(dtype), partial(measure, dtype=dtype))


def _by_op(name: str, meaning: str, measure: Callable[..., Value], *ops: str) -> Iterator[Probe]:
    for op in ops:
        yield Probe(name.format(op), meaning.format(op), partial(measure, op=op))


_ALL = tuple(DTYPES)
_SUMS = "what a {} of {{}} is accumulated in: float32, the dtype itself, or mixed"
TABLE: tuple[Probe, ...] = (
    *_by_dtype("accumulation.mean", _SUMS.format("mean"), partial(reduction, op="mean"), HALVES),
    *_by_dtype("accumulation.sum", _SUMS.format("sum"), partial(reduction, op="sum"), HALVES),
    *_by_dtype("accumulation.matmul", _SUMS.format("matrix product"), matmul, HALVES),
    *_by_dtype("accumulation.conv1d", _SUMS.format("convolution"), conv1d, HALVES),
    *_by_dtype("accumulation.gate_gradient", _SUMS.format("broadcast gate's gradient"), gate_gradient, HALVES),
    *_by_dtype("accumulation.kernel_gradient", _SUMS.format("convolution kernel's gradient"), kernel_gradient, HALVES),
    *_by_dtype(
        "error.gate_gradient",
        "largest relative error of a {} gate's gradient over 56x56, all of one sign",
        gate_gradient_error,
        HALVES,
    ),
    *_by_op("overflow.{}.float16", "whether a {} within float16 overflows on the way", overflow, "mean", "sum"),
    *_by_dtype("sigmoid.cliff", "the {} at and below which a sigmoid is exactly 0", sigmoid_cliff, _ALL),
    *_by_dtype("sigmoid.ulp", "largest error of a {} sigmoid on -12..-10, in ULP", sigmoid_ulp, _ALL),
    *_by_dtype("subnormals", "whether {} arithmetic keeps subnormal numbers or flushes them to 0", subnormals, _ALL),
    *_by_dtype("leak.conv1d", "where NaN and Inf come out of a {} convolution that cannot see them", leak, _ALL),
    *_by_dtype("excess", "whether a {} product is kept wider for the sum that follows it", excess, _ALL),
    *_by_op("inputs.{}.float32", "what a float32 {} rounds its inputs to", input_precision, "matmul", "conv1d"),
    *_by_op(
        "batch_invariant.{}",
        "whether a sample's {} has the same bits alone and among eight",
        batch_invariant,
        "mean",
        "matmul",
        "conv1d",
    ),
    Probe("repeatable", "whether a second run gives the same bits", repeatable),
    Probe("flag.matmul_precision", "the precision asked for in float32 matrix products"),
    Probe("flag.tf32.matmul", "whether float32 matrix products may use TF32 on a GPU"),
    Probe("flag.tf32.conv", "whether float32 convolutions may use TF32 on a GPU"),
    Probe("flag.onednn", "whether oneDNN is on"),
    Probe("flag.x64", "whether float64 stays float64"),
    Probe("flag.xla", "XLA_FLAGS"),
    Probe("threads.intra", "threads within an operation"),
    Probe("threads.inter", "threads across operations"),
    Probe("device.platform", "cpu, gpu, cuda or tpu"),
    Probe("device.kind", "the device's name, or the CPU's instructions"),
    Probe("version.framework", "the framework's version"),
    Probe("version.numpy", "NumPy's version"),
    Probe("version.keras", "Keras's version"),
    Probe("keras.floatx", "Keras's default dtype"),
    Probe("keras.policy", "Keras's dtype policy"),
)
