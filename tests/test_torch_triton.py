"""The Triton kernels in Triton's interpreter, on CPU tensors: what they compute, not how fast a GPU would be.

The oracle is the parity run's, with its budget: float32 for the means and gates, x's dtype for what is rounded to it.
"""

import math
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from eca_multi.parity.budget import SAFETY, quantise
from eca_multi.parity.jobs import Job
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.torch import _triton

pytest.importorskip("triton", reason="the kernels' tests need Triton, which is not installed")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.setenv("ECA_MULTI_TRITON", "1")


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = (1, 1, 3)
    padding: str = "zeros"
    gate: str = "sigmoid"
    dtype: str = "float32"
    columns: bool = False  # the channels innermost in memory
    options: tuple[str, str] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "options", (self.padding, self.gate))

    def draw(self, rng):
        """Return x, weight, dy and dg in float64, on values that the dtype can hold; dg is in float32 as the gates."""
        offsets = rng.uniform(-2, 2, (1, self.shape[1]) + (1,) * (len(self.shape) - 2))
        x, w, dy = rng.normal(size=self.shape) + offsets, rng.normal(size=self.kernel), rng.normal(size=self.shape)
        x, w, dy = (quantise(a, self.dtype) for a in (x, w / math.sqrt(self.kernel[-1]), dy))
        return x, w, dy, quantise(rng.normal(size=self.shape[:2]), "float32")

    def tensor(self, array):
        tensor = torch.from_numpy(array).to(DTYPES[self.dtype])
        return self.laid_out(tensor) if array.ndim > 2 and array.shape == self.shape else tensor

    def laid_out(self, x):
        return x.movedim(1, -1).contiguous().movedim(-1, 1) if self.columns else x

    def run(self, x, w, dy, dg=None):
        """Return what the kernels make of it."""
        x, w, dy = map(self.tensor, (x, w, dy))
        assert _triton.available(x, w)
        y, pooled, g = _triton.forward(x, w, *self.options)
        dg = None if dg is None else torch.from_numpy(dg).float()
        dx, dw = _triton.backward(dy, x, w, pooled, g, dg, *self.options)
        for result, like in ((y, x), (dx, x), (dw, w)):
            assert (result.dtype, result.shape, result.stride()) == (like.dtype, like.shape, like.stride())
        assert pooled.dtype == g.dtype == torch.float32
        return {"y": y, "pooled": pooled, "gate": g, "dx": dx, "dw": dw}

    def expected(self, x, w, dy, dg=None):
        """Return {name: (value, budget)}."""
        solved = self.solve(x, w, dy, self.dtype)
        full = self.solve(x, w, dy, "float32")
        solved |= {name: full[name] for name in ("pooled", "gate")}
        if dg is not None:  # gradients are linear in the cotangents: those of dg alone are added
            alone = self.solve(x, w, np.zeros_like(dy), self.dtype, d_gate=dg)
            for name in ("dx", "dw"):
                solved[name] = tuple(a + b for a, b in zip(solved[name], alone[name], strict=True))
        return {n: (solved[n][0], SAFETY["analytic"] * solved[n][1]) for n in ("y", "pooled", "gate", "dx", "dw")}

    def solve(self, x, w, dy, dtype, **given):
        w = w[:, 0] if len(w) > 1 else w[0, 0]
        config = {"padding": self.padding, "gate": self.gate}
        job = Job("case", dtype, config, {}, ("y",), inputs={"x": x}, weights={"w": w}, cotangents={"y": dy}, given=given)
        return solve(job)


def assert_within_budget(got, expected):
    for name, (value, budget) in expected.items():
        array = got[name].double().numpy().reshape(value.shape)
        assert (np.abs(array - value) <= budget).all(), name


CASES = {
    "1-D": Case((2, 10, 7)),
    "2-D 7x7": Case((2, 10, 7, 7), (1, 1, 5)),
    "3-D": Case((2, 6, 3, 2, 5), (1, 1, 3)),
    "1x1": Case((3, 20, 1, 1)),
    "k = 1": Case((2, 10, 3, 5), (1, 1, 1)),
    "k = 9": Case((2, 24, 3, 5), (1, 1, 9)),
    "k > C": Case((2, 3, 4, 5), (1, 1, 9)),
    "one channel": Case((2, 1, 5, 3)),
    "ECA-NS": Case((2, 10, 3, 5), (10, 1, 3)),
    "circular": Case((2, 10, 3, 5), (1, 1, 5), "circular"),
    "circular, k//2 = C": Case((2, 4, 3, 5), (1, 1, 9), "circular"),
    "circular ECA-NS": Case((2, 10, 3, 5), (10, 1, 5), "circular"),
    "hard_sigmoid": Case((2, 10, 3, 5), gate="hard_sigmoid"),
    "2sigmoid": Case((2, 10, 3, 5), gate="2sigmoid"),
    "channels in blocks": Case((2, 150, 3, 3), (1, 1, 5)),
    "channels in blocks, k = 9, ECA-NS": Case((1, 150, 3, 3), (150, 1, 9)),
    "channels in blocks, circular ECA-NS": Case((1, 150, 3, 3), (150, 1, 7), "circular", "2sigmoid"),
    "positions in steps": Case((2, 6, 50, 101)),
    "both": Case((1, 100, 37, 41), (1, 1, 7)),
    "both, circular": Case((1, 100, 37, 41), (1, 1, 7), "circular", "hard_sigmoid"),
    "k = 65": Case((1, 200, 2, 2), (1, 1, 65)),
    "k = 65, circular": Case((1, 40, 2, 2), (1, 1, 65), "circular"),
}


@pytest.mark.parametrize("columns", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_kernels_agree_with_the_oracle(case, dtype, columns, rng):
    case = Case(case.shape, case.kernel, case.padding, case.gate, dtype, columns)
    x, w, dy, dg = case.draw(rng)
    assert_within_budget(case.run(x, w, dy), case.expected(x, w, dy))
    assert_within_budget(case.run(x, w, dy, dg), case.expected(x, w, dy, dg))
