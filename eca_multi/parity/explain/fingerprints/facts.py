"""From a fingerprint to an explanation: which of its facts explains that a tensor fails."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eca_multi.parity.define.tensor import Kind, Quantity

from .primitives import HALVES


def explain(
    quantity: Quantity,
    dtype: str,
    fingerprint: Mapping[str, object],
    operations: Sequence[str],
    *,
    nonfinite: bool = False,
) -> str | None:
    """Name the fact of a runner's fingerprint that would explain its first failure, in one short line.

    A fact is named only where its operation is among those that were recorded. Half-precision facts explain no float32
    failure, backward facts no forward tap, and facts that a budget absorbs (subnormals, ULP, batch invariance) nothing
    at all.

    Args:
        quantity: The first tensor that fails.
        dtype: The dtype in which the tensor fails.
        fingerprint: What `measure` returned in that runner's process.
        operations: Names of the PyTorch operations of the tensor's stage in the reference, in the order of their calls;
            of a gradient, those whose derivatives lead to it.
        nonfinite: Whether the tensor fails by NaN or infinity, which leaks and overflows alone explain.

    Returns:
        The line, or None where nothing in the fingerprint explains the failure.

    Example:
        >>> from eca_multi.parity.define.tensor import Kind, Quantity
        >>> from eca_multi.parity.explain.fingerprints import explain
        >>> fingerprint = {"accumulation.mean.float16": "float16"}
        >>> explain(Quantity(Kind.OUTPUT, "y"), "float16", fingerprint, ["mean", "mul"])
        'mean accumulates in float16'
        >>> explain(Quantity(Kind.OUTPUT, "y"), "float16", fingerprint, ["relu"])
    """
    for fact in _facts(quantity, operations):
        value = fingerprint.get(fact.probe.format(dtype))
        if dtype in fact.dtypes and fact.nonfinite == nonfinite and fact.explains(value):
            return fact.line.format(dtype=dtype, value=value, partly="partly " if value == "mixed" else "")
    return None


_PLACES = r"[+-]\d+( [+-]\d+)*"


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
    line = "{dtype} conv1d leaks NaN and Inf to {value}, outside of what its kernel covers"
    return _Fact("leak.conv1d.{}", lambda value: re.fullmatch(_PLACES, str(value)) is not None, line, nonfinite=True)


# By what an operation does, forwards and backwards. No fact was measured of other gradients.
_FORWARD: Mapping[str, tuple[_Fact, ...]] = {
    "mean": (_accumulates("mean", "mean"), _overflows("mean")),
    "conv": (_rounds("conv1d"), _accumulates("conv1d", "conv1d"), _leaks()),
    "sigmoid": (_cliff("float16 sigmoid is exactly 0 from {value} down"),),
    "sum": (_accumulates("sum", "sum"), _overflows("sum")),
    "matmul": (_rounds("matmul"), _accumulates("matmul", "matmul")),
}
_BACKWARD: Mapping[str, tuple[_Fact, ...]] = {
    "gate": (_accumulates("gate-gradient reduction", "gate_gradient"),),
    "sigmoid": (_cliff("float16 sigmoid is exactly 0 from {value} down, and so is its gradient"),),
    "conv": (_rounds("conv1d"),),
}
_OF_KERNEL: Mapping[str, tuple[_Fact, ...]] = {
    **_BACKWARD,
    "conv": (_rounds("conv1d"), _accumulates("kernel-gradient reduction", "kernel_gradient")),
}
_DOES: Mapping[str, str] = {
    "mean": "mean",
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), "mean"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    "sigmoid": "sigmoid",
    "sum": "sum",
    **dict.fromkeys(("matmul", "mm", "bmm", "linear", "einsum", "addmm", "baddbmm"), "matmul"),
    "broadcast_mul": "gate",  # as a trace names a product of two shapes
}


def _facts(quantity: Quantity, operations: Sequence[str]) -> Iterator[_Fact]:
    """Yield the facts that may explain a tensor, in the order in which the tensor depends on them."""
    is_forward = quantity.kind in (Kind.TAP, Kind.OUTPUT, Kind.STATE)
    table = _FORWARD if is_forward else _OF_KERNEL if quantity.kind is Kind.WEIGHT_GRADIENT else _BACKWARD
    for name in operations if is_forward else reversed(operations):
        yield from table.get(_DOES.get(name, ""), ())
