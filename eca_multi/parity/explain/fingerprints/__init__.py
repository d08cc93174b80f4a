"""A runner's numerics, measured: where it accumulates in half precision, what it flushes, leaks, rounds and repeats.

`_torch`, `_tensorflow`, `_jax`, `_numpy` and `_keras` import their framework and have `probe()`, which returns a value
for each of `PROBES`: "n/a" where there is no such thing, "error: ..." where the measurement failed. This module and
`_common` import no framework.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .common import HALVES, TABLE

__all__ = ["PROBES", "explain", "measure"]

PROBES: dict[str, str] = {probe.name: probe.meaning for probe in TABLE}


def measure(framework: str) -> dict[str, Any]:
    """Measure how a framework computes in this process: "torch", "jax", "keras" or "numpy"; "" has no probes."""
    return dict(import_module(f"{__name__}.{framework}").probe()) if framework else {}


def explain(
    tensor_or_tap: str,
    dtype: str,
    fingerprint: Mapping[str, object],
    *,
    nonfinite: bool = False,
    clean: Collection[str] = (),
) -> str | None:
    """Name the fact of a runner's fingerprint that would explain its first failure, in one short line.

    Half-precision facts explain no float32 failure, backward facts no forward tap, and what a budget absorbs
    (subnormals, ULP, batch invariance) nothing at all.

    Args:
        tensor_or_tap: The first tensor that fails: y, dx, dw, an ECA's tap, "d_" and a tap for its gradient, or a tap
            of the user's own, which is known by words such as "conv" in its name. What follows an @ does not count.
        dtype: The dtype in which it fails.
        fingerprint: What `probe()` returned in that runner's process.
        nonfinite: Whether it fails by NaN or Inf. Leaks and overflows explain that, and nothing else does.
        clean: Tensors and taps that were compared and are right, which clears them of y, dx and dw.

    Returns:
        The line, or None where nothing in the fingerprint explains the failure.

    Example:
        >>> from eca_multi.parity.explain.fingerprints import explain
        >>> explain("d_gate", "bfloat16", {"accumulation.gate_gradient.bfloat16": "bfloat16"})
        'gate-gradient reduction accumulates in bfloat16'
        >>> explain("gate", "bfloat16", {"accumulation.gate_gradient.bfloat16": "bfloat16"})
    """
    for tap in _suspects(tensor_or_tap.partition("@")[0]):
        for fact in _FACTS[tap] if tap not in clean else ():
            value = fingerprint.get(fact.probe.format(dtype))
            if dtype in fact.dtypes and fact.nonfinite == nonfinite and fact.explains(value):
                return fact.line.format(dtype=dtype, value=value, partly="partly " if value == "mixed" else "")
    return None


@dataclass(frozen=True)
class _Fact:
    """A probe, which of its values explain a failure, and the line that says so."""

    probe: str
    explains: Callable[[object], bool]
    line: str
    dtypes: tuple[str, ...] = HALVES
    nonfinite: bool = False


def _accumulates(what: str, op: str) -> _Fact:
    line = f"{what} accumulates {{partly}}in {{dtype}}"
    return _Fact(f"accumulation.{op}.{{}}", lambda value: value in (*HALVES, "mixed"), line)


def _overflows(op: str) -> _Fact:
    line = f"{op} overflows on the way to a result within float16"
    return _Fact(f"overflow.{op}.float16", lambda value: value == "overflows", line, ("float16",), nonfinite=True)


def _rounds(op: str) -> _Fact:
    line = f"float32 {op} rounds its inputs to {{value}}"
    return _Fact(f"inputs.{op}.float32", lambda value: value in ("tf32", "bfloat16"), line, ("float32",))


def _cliff(line: str) -> _Fact:
    """A right sigmoid becomes 0 at -17.3 in float16; one whose exp overflows, at -11.1."""
    return _Fact("sigmoid.cliff.float16", lambda value: isinstance(value, float) and value > -17, line, ("float16",))


def _leaks() -> _Fact:
    def explains(value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(r"[+-]\d+( [+-]\d+)*", value) is not None

    line = "{dtype} conv1d leaks NaN and Inf to {value}, outside of what its kernel covers"
    return _Fact("leak.conv1d.{}", explains, line, nonfinite=True)


# By tap of an ECA, forwards and then backwards; and by the operations that a user's own tap can be the result of.
_FACTS: dict[str, tuple[_Fact, ...]] = {
    "pooled": (_accumulates("mean", "mean"), _overflows("mean")),
    "conv": (_rounds("conv1d"), _accumulates("conv1d", "conv1d"), _leaks()),
    "gate": (_cliff("float16 sigmoid is exactly 0 from {value} down"),),
    "y": (),
    "d_gate": (_accumulates("gate-gradient reduction", "gate_gradient"),),
    "d_conv": (_cliff("float16 sigmoid is exactly 0 from {value} down, and so is its gradient"),),
    "d_pooled": (_rounds("conv1d"),),
    "dx": (),
    "dw": (_rounds("conv1d"), _accumulates("kernel-gradient reduction", "kernel_gradient")),
    "sum": (_accumulates("sum", "sum"), _overflows("sum")),
    "matmul": (_rounds("matmul"), _accumulates("matmul", "matmul")),
}

# What a tensor is computed from; of a tap, that is taken to have been compared before it.
_UPSTREAM = {
    "y": ("pooled", "conv", "gate"),
    "dx": ("d_gate", "d_conv", "d_pooled"),
    "dw": ("d_gate", "d_conv"),
}

# A word's beginning in the name of a user's tap. The first that fits decides.
_WORDS = (
    ("max", None),
    ("mean", "pooled"),
    ("avg", "pooled"),
    ("average", "pooled"),
    ("pool", "pooled"),
    ("conv", "conv"),
    ("gate", "gate"),
    ("sigmoid", "gate"),
    ("sum", "sum"),
    ("dense", "matmul"),
    ("linear", "matmul"),
    ("matmul", "matmul"),
)


def _suspects(name: str) -> tuple[str, ...]:
    if name in _FACTS:
        return (*_UPSTREAM.get(name, ()), name)
    words = re.findall("[a-z]+", name.lower())
    tap = next((tap for start, tap in _WORDS if any(word.startswith(start) for word in words)), None)
    if tap is None or (name.startswith("d_") and tap != "gate"):  # of other gradients no fact was measured
        return ()
    return (f"d_{tap}" if name.startswith("d_") else tap,)
