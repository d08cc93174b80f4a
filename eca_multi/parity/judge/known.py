"""Facts of a framework's own operations, and the tensors whose errors in half precision they explain.

A fact is measured by a probe (explain/fingerprints) in the run that it explains. It is about one kind of tensor, beside
one operation of the PyTorch reference:

* the gradient of a weight, where one of `operations` reads the weight;
* an output, or an input's gradient, where one of `operations` is the reference's only operation. In a longer layer what
  comes before may be at fault, and nobody has measured that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eca_multi.parity.define.tensor import Kind

from .cell import Cell
from .compare import Verdict


@dataclass(frozen=True)
class Known:
    """A fact by its probe, and what it is about; `axes` is how many axes the weight has (None: more than two)."""

    probe: str
    what: str
    operations: frozenset[str]
    kind: Kind = Kind.WEIGHT_GRADIENT
    axes: int | None = 1

    def is_about(self, kind: Kind, axes: int, operation: str) -> bool:
        if kind is not self.kind or operation not in self.operations:
            return False
        return kind is not Kind.WEIGHT_GRADIENT or (axes > 2 if self.axes is None else axes == self.axes)


_SUMS = frozenset(("linear", "addmm", "add", "__add__", "__radd__", "layer_norm", "batch_norm", "group_norm"))
_CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
_POOLS = frozenset(f"avg_pool{n}d" for n in (1, 2, 3))
KNOWN = (
    Known("accumulation.bias_gradient", "bias gradient", _SUMS | {f"{name}.bias" for name in _CONVOLUTIONS}),
    Known("accumulation.norm_gradient", "LayerNorm gradient", frozenset(("layer_norm",))),
    Known("accumulation.kernel_gradient", "convolution-kernel gradient", _CONVOLUTIONS, axes=None),
    Known("accumulation.window_sum", "sum over a window", _POOLS, Kind.OUTPUT),
    Known("accumulation.window_gradient", "sum over windows", _POOLS, Kind.INPUT_GRADIENT),
)
_KINDS = {"forward": Kind.OUTPUT, "input_grad": Kind.INPUT_GRADIENT}


def known_about(cell: Cell, axes: int | None, operation: Callable[[], str]) -> list[Known]:
    """Return the facts that may explain a red cell, before anybody has measured them.

    A sum that loses terms is off by less than itself: an error as large as the tensor is explained by none.

    Args:
        cell: In half precision.
        axes: How many axes the weight has whose gradient stands in the cell; None for other tensors.
        operation: Called where the answer decides, since it may take a run: returns the operation of the reference that
            the fact would be about, or "".
    """
    kind = _KINDS.get(cell.check) if axes is None else Kind.WEIGHT_GRADIENT
    is_small = cell.judgement.metrics.get("snr_db", -1.0) > 0.0
    if kind is None or not is_small or cell.verdict is not Verdict.EXCEEDS_BUDGET:
        return []
    name = operation()
    return [known for known in KNOWN if known.is_about(kind, axes or 0, name)]


def explained_by(known: Known, dtype: str, facts: Mapping[str, object], framework: str) -> str:
    """Name a fact that the framework's probes have shown in a dtype; "" where they have not."""
    value = facts.get(f"{known.probe}.{dtype}")
    if value not in (dtype, "mixed"):
        return ""
    partly = "partly " if value == "mixed" else ""
    return f"known: {framework}'s {known.what} in {dtype} (it adds up {partly}in {dtype})"
