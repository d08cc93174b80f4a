"""Faults in padding: shifted, SAME's in the place of the explicit one, none, or filled by another rule."""

from typing import Any

import torch
import torch.nn.functional as F

from eca_multi.parity.mutants.mode import Call, Change, each

from .hypothesis import Hypothesis, on
from .weights import CONVOLUTIONS, TRANSPOSED

_NAMES = {
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}
_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
Pairs = list[tuple[int, int]]


class _Window:
    """A call of a convolution or a pool: its sizes, and the padding before and after along each axis of space."""

    def __init__(self, call: Call) -> None:
        self.call, self.name = call, call.name[:-2]
        self.bound = {**dict(zip(_NAMES[self.name], call.args, strict=False)), **call.kwargs}
        rank = int(call.name[-2])
        sizes = self.bound["weight"].shape[2:] if "weight" in self.bound else each(self.bound["kernel_size"], rank)
        self.sizes = list(sizes)
        stride = self.bound.get("stride")
        self.strides = each(stride if stride not in (None, []) else (1 if "weight" in self.bound else self.sizes), rank)
        self.steps = each(self.bound.get("dilation", 1), rank)
        padding = self.bound.get("padding", 0)
        if isinstance(padding, str):
            totals = [step * (size - 1) * (padding == "same") for step, size in zip(self.steps, sizes, strict=True)]
            self.pairs: Pairs = [(total // 2, total - total // 2) for total in totals]
        else:
            self.pairs = [(amount, amount) for amount in each(padding, rank)]

    def same(self) -> Pairs:
        """Return the padding that TensorFlow calls SAME: ceil(size / stride) outputs, what is odd comes after."""
        pairs = []
        space = self.bound["input"].shape[-len(self.sizes) :]
        for extent, size, stride, step in zip(space, self.sizes, self.strides, self.steps, strict=True):
            total = max((-(-extent // stride) - 1) * stride + step * (size - 1) + 1 - extent, 0)
            pairs.append((total // 2, total - total // 2))
        return pairs

    def padded(self, pairs: Pairs, mode: str = "constant", fill: float | None = None) -> Any:
        border = [amount for pair in reversed(pairs) for amount in pair]
        x = self.bound["input"]
        if fill is None:
            fill = -torch.inf if self.name == "max_pool" else 0.0
        padded = F.pad(x, border, mode, fill) if mode == "constant" else F.pad(x, border, mode)
        bound = {**self.bound, "input": padded, "padding": 0}
        if self.name == "avg_pool":
            return self._average(padded, bound, border)
        return self.call.func(**bound)

    def _average(self, padded: torch.Tensor, bound: dict[str, Any], border: list[int]) -> Any:
        """Divide by the number of true elements of each window, as SAME does."""
        counts = F.pad(torch.ones_like(self.bound["input"]), border)
        plain = {**bound, "count_include_pad": True, "divisor_override": None}
        if int(self.call.name[-2]) == 1:
            plain.pop("divisor_override")
        return self.call.func(**plain) / self.call.func(**{**plain, "input": counts})


def _padded(kind: str) -> Change:
    def change(call: Call) -> Any:
        window = _Window(call)
        pairs: Pairs = {
            "same": window.same(),
            "valid": [(0, 0)] * len(window.sizes),
            "before": [(before + 1, max(after - 1, 0)) for before, after in window.pairs],
            "causal": [(before + after, 0) for before, after in window.pairs],
            "after": [(max(before - 1, 0), after + 1) for before, after in window.pairs],
        }[kind]
        known = [window.pairs] if kind == "same" else [window.pairs, window.same()]  # one fault, one name
        return NotImplemented if pairs in known else window.padded(pairs)

    return change


def _undilated(call: Call) -> Any:
    """Leave the dilation out, and pad less, so that the size stays."""
    window = _Window(call)
    less = [(step - 1) * (size - 1) for step, size in zip(window.steps, window.sizes, strict=True)]
    pairs = [
        (before - extra // 2, after - (extra - extra // 2))
        for (before, after), extra in zip(window.pairs, less, strict=True)
    ]
    if not any(less) or min(map(min, pairs)) < 0:
        return NotImplemented
    window.bound["dilation"] = 1
    return window.padded(pairs)


def _filled(mode: str) -> Change:
    def change(call: Call) -> Any:
        window = _Window(call)
        space = window.bound["input"].shape[-len(window.sizes) :]
        most = max(map(max, window.pairs))
        fits = 0 < most < min(space)
        return window.padded(window.pairs, mode) if fits else NotImplemented

    return change


def _zeros_in_maximum(call: Call) -> Any:
    """Fill the border of a maximum with zeros, which win over negative values."""
    window = _Window(call)
    return window.padded(window.pairs, fill=0.0) if any(map(max, window.pairs)) else NotImplemented


def _other_fill(mode: str) -> Change:
    """Change the rule of a border that the layer makes by itself, before a convolution without padding."""

    def change(call: Call) -> Any:
        pad, now = call.argument(1, "pad"), call.argument(2, "mode", "constant")
        if now == mode or not any(amount > 0 for amount in pad) or min(pad) < 0:
            return NotImplemented
        try:
            return F.pad(call.x, list(pad), mode)
        except (RuntimeError, NotImplementedError, ValueError):  # a border longer than the tensor, or of another rank
            return NotImplemented

    return change


def _shifted_border(call: Call) -> Any:
    pad = list(call.argument(1, "pad"))
    if not any(before != after for before, after in zip(pad[::2], pad[1::2], strict=True)):
        return NotImplemented
    swapped = [amount for pair in zip(pad[1::2], pad[::2], strict=True) for amount in pair]
    return call.func(call.x, swapped, *call.args[2:], **call.kwargs)


def _cropped(shift: int) -> Change:
    """Crop the full result of a transposed convolution at another place, as SAME does."""

    def change(call: Call) -> Any:
        window = _Window(call)
        plain = call.plain()
        space = plain.shape[2:]
        starts = [before + shift for before, _ in window.pairs]
        if min(starts) < 0:
            return NotImplemented
        extra = max(starts) + 1
        full = call.func(**{**window.bound, "padding": 0, "output_padding": 0})
        full = F.pad(full, [0, extra] * len(space))
        bias = window.bound.get("bias")
        if bias is not None:  # what lies outside of the full result holds the bias alone
            within: tuple[Any, ...] = (..., *(slice(-extra) for _ in space))
            inside = F.pad(torch.ones_like(full[within]), [0, extra] * len(space))
            full = full + (1 - inside) * bias.reshape(-1, *[1] * len(space))
        crop: tuple[Any, ...] = (..., *(slice(b, b + size) for b, size in zip(starts, space, strict=True)))
        return full[crop]

    return change


_WINDOWS = (*CONVOLUTIONS, *_POOLS)
PADDING = (
    Hypothesis("padding is SAME's (the odd one comes after)", on(_WINDOWS, _padded("same"))),
    Hypothesis("padding is shifted to before", {**on(_WINDOWS, _padded("before")), "pad": _shifted_border}),
    Hypothesis("padding is shifted to after", on(_WINDOWS, _padded("after"))),
    Hypothesis("padding is causal (all of it comes before)", on(_WINDOWS, _padded("causal"))),
    Hypothesis("padding is missing", on(_WINDOWS, _padded("valid"))),
    *(
        Hypothesis(f"padding is {says}", {**on(CONVOLUTIONS, _filled(mode)), "pad": _other_fill(mode)})
        for says, mode in (
            *(("zero", "constant"), ("circular", "circular")),
            *(("reflected", "reflect"), ("replicated", "replicate")),
        )
    ),
    Hypothesis("padding is filled with zeros", on(("max_pool1d", "max_pool2d", "max_pool3d"), _zeros_in_maximum)),
    Hypothesis("the dilation is missing", on(CONVOLUTIONS, _undilated)),
    Hypothesis("the result is cropped one position later", on(TRANSPOSED, _cropped(1))),
    Hypothesis("the result is cropped one position earlier", on(TRANSPOSED, _cropped(-1))),
)
