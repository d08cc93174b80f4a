"""From a fingerprint to an explanation: which of its facts explains that a tensor fails."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eca_multi.parity.define.tensor import Kind, Quantity

from .primitives import HALVES


def explain(
    quantity: Quantity, dtype: str, fingerprint: Mapping[str, object], *, nonfinite: bool = False
) -> str | None:
    """Name the fact of a runner's fingerprint that would explain its first failure, in one short line.

    Half-precision facts explain no float32 failure, backward facts no forward tap, and facts that a budget absorbs
    (subnormals, ULP, batch invariance) nothing at all.

    Args:
        quantity: The first tensor that fails. y, dx, dw and the taps of an ECA are known; a user's own tap or output is
            known by words such as "conv" in its name.
        dtype: The dtype in which the tensor fails.
        fingerprint: What `measure` returned in that runner's process.
        nonfinite: Whether the tensor fails by NaN or infinity, which leaks and overflows alone explain.

    Returns:
        The line, or None where nothing in the fingerprint explains the failure.

    Example:
        >>> from eca_multi.parity.define.tensor import Kind, Quantity
        >>> from eca_multi.parity.explain.fingerprints import explain
        >>> fingerprint = {"accumulation.gate_gradient.bfloat16": "bfloat16"}
        >>> explain(Quantity(Kind.TAP_GRADIENT, "gate"), "bfloat16", fingerprint)
        'gate-gradient reduction accumulates in bfloat16'
        >>> explain(Quantity(Kind.TAP, "gate"), "bfloat16", fingerprint)
    """
    for fact in _facts(quantity):
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


# By operation forwards, and by an ECA's tap backwards.
_FORWARD: Mapping[str, tuple[_Fact, ...]] = {
    "pooled": (_accumulates("mean", "mean"), _overflows("mean")),
    "conv": (_rounds("conv1d"), _accumulates("conv1d", "conv1d"), _leaks()),
    "gate": (_cliff("float16 sigmoid is exactly 0 from {value} down"),),
    "sum": (_accumulates("sum", "sum"), _overflows("sum")),
    "matmul": (_rounds("matmul"), _accumulates("matmul", "matmul")),
}
_BACKWARD: Mapping[str, tuple[_Fact, ...]] = {
    "gate": (_accumulates("gate-gradient reduction", "gate_gradient"),),
    "conv": (_cliff("float16 sigmoid is exactly 0 from {value} down, and so is its gradient"),),
    "pooled": (_rounds("conv1d"),),
}
_OF_KERNEL = (_rounds("conv1d"), _accumulates("kernel-gradient reduction", "kernel_gradient"))
# An ECA's results by the facts of all that they are computed from.
_RESULTS: Mapping[tuple[Kind, str], tuple[_Fact, ...]] = {
    (Kind.OUTPUT, "y"): (*_FORWARD["pooled"], *_FORWARD["conv"], *_FORWARD["gate"]),
    (Kind.INPUT_GRADIENT, "x"): (*_BACKWARD["gate"], *_BACKWARD["conv"], *_BACKWARD["pooled"]),
    (Kind.WEIGHT_GRADIENT, "w"): (*_BACKWARD["gate"], *_BACKWARD["conv"], *_OF_KERNEL),
}

# The operation of a user's tap, by the beginnings of words in the tap's name. The first that fits decides.
_WORDS = {
    "": ("max",),
    "pooled": ("mean", "avg", "average", "pool"),
    "conv": ("conv",),
    "gate": ("gate", "sigmoid"),
    "sum": ("sum",),
    "matmul": ("dense", "linear", "matmul"),
}


def _facts(quantity: Quantity) -> tuple[_Fact, ...]:
    """Return the facts that may explain a tensor, in the order in which the tensor depends on them."""
    kind, name = quantity.kind, quantity.name
    if (kind, name) in _RESULTS:
        return _RESULTS[kind, name]
    if kind in (Kind.TAP, Kind.OUTPUT, Kind.STATE):
        return _FORWARD.get(_operation(name), ())
    if kind is Kind.TAP_GRADIENT:  # by words the gate's alone: no fact was measured of other gradients
        return _BACKWARD.get(name) or (_BACKWARD["gate"] if _operation(name) == "gate" else ())
    return ()


def _operation(name: str) -> str:
    """Return the operation whose result a name seems to be; "" where no word tells it."""
    words = re.findall("[a-z]+", name.lower())
    return next((op for op, starts in _WORDS.items() if any(word.startswith(starts) for word in words)), "")
