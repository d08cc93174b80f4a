"""The table of probes: each line of a fingerprint with its meaning and its measurement.

A probe measures where it can; for the others (`Primitives.facts`) the framework tells its own flags and versions.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from .accumulation import (
    bias_gradient,
    conv1d,
    gate_gradient,
    gate_gradient_error,
    kernel_gradient,
    matmul,
    norm_gradient,
    overflow,
    reduction,
    window_gradient,
    window_sum,
)
from .bits import batch_invariant, input_precision, repeatable
from .elements import excess, leak, sigmoid_cliff, sigmoid_ulp, subnormals
from .primitives import DTYPES, HALVES, NotApplicable, Primitives, Value

NOT_APPLICABLE = "n/a"


@dataclass(frozen=True)
class Probe:
    """One line of a fingerprint. A probe without `measure` is one of the framework's `facts`."""

    name: str
    meaning: str
    measure: Callable[[Primitives], Value] | None = None


def fingerprint(primitives: Primitives) -> dict[str, Value]:
    """Run all probes. The value of a probe that raises is its error; the other probes run."""
    with np.errstate(all="ignore"):  # some probes provoke overflow and NaN
        return {p.name: _attempt(partial(p.measure or partial(_fact, p.name), primitives)) for p in TABLE}


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


def _by_dtype(name: str, meaning: str, measure: Callable[..., Value], dtypes: tuple[str, ...]) -> Iterator[Probe]:
    for dtype in dtypes:
        yield Probe(f"{name}.{dtype}", meaning.format(dtype), partial(measure, dtype=dtype))


def _by_op(name: str, meaning: str, measure: Callable[..., Value], *ops: str) -> Iterator[Probe]:
    for op in ops:
        yield Probe(name.format(op), meaning.format(op), partial(measure, op=op))


_ALL = tuple(DTYPES)
_GATE_ERROR = "largest relative error of a {} gate's gradient over 56x56, all of one sign"
_BATCHES = "whether a sample's {} has the same bits alone and among eight"
_SUMS = "what a {} of {{}} is accumulated in: float32, the dtype itself, or mixed"
TABLE: tuple[Probe, ...] = (
    *_by_dtype("accumulation.mean", _SUMS.format("mean"), partial(reduction, op="mean"), HALVES),
    *_by_dtype("accumulation.sum", _SUMS.format("sum"), partial(reduction, op="sum"), HALVES),
    *_by_dtype("accumulation.matmul", _SUMS.format("matrix product"), matmul, HALVES),
    *_by_dtype("accumulation.conv1d", _SUMS.format("convolution"), conv1d, HALVES),
    *_by_dtype("accumulation.gate_gradient", _SUMS.format("broadcast gate's gradient"), gate_gradient, HALVES),
    *_by_dtype("accumulation.kernel_gradient", _SUMS.format("convolution kernel's gradient"), kernel_gradient, HALVES),
    *_by_dtype("accumulation.bias_gradient", _SUMS.format("bias's gradient"), bias_gradient, HALVES),
    *_by_dtype("accumulation.norm_gradient", _SUMS.format("LayerNorm bias's gradient"), norm_gradient, HALVES),
    *_by_dtype("accumulation.window_sum", _SUMS.format("window of a pooling"), window_sum, HALVES),
    *_by_dtype("accumulation.window_gradient", _SUMS.format("pooled place's gradient"), window_gradient, HALVES),
    *_by_dtype("error.gate_gradient", _GATE_ERROR, gate_gradient_error, HALVES),
    *_by_op("overflow.{}.float16", "whether a {} within float16 overflows on the way", overflow, "mean", "sum"),
    *_by_dtype("sigmoid.cliff", "the {} at and below which a sigmoid is exactly 0", sigmoid_cliff, _ALL),
    *_by_dtype("sigmoid.ulp", "largest error of a {} sigmoid on -12..-10, in ULP", sigmoid_ulp, _ALL),
    *_by_dtype("subnormals", "whether {} arithmetic keeps subnormal numbers or flushes them to 0", subnormals, _ALL),
    *_by_dtype("leak.conv1d", "where NaN and Inf come out of a {} convolution that cannot see them", leak, _ALL),
    *_by_dtype("excess", "whether a {} product is kept wider for the sum that follows it", excess, _ALL),
    *_by_op("inputs.{}.float32", "what a float32 {} rounds its inputs to", input_precision, "matmul", "conv1d"),
    *_by_op("batch_invariant.{}", _BATCHES, batch_invariant, "mean", "matmul", "conv1d"),
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
    Probe("version.numpy", "NumPy's version", lambda _: np.__version__),
    Probe("version.keras", "Keras's version"),
    Probe("keras.floatx", "Keras's default dtype"),
    Probe("keras.policy", "Keras's dtype policy"),
)
