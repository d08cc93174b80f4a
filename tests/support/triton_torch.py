"""The Triton kernels in Triton's interpreter, on CPU tensors: what they compute, not how fast a GPU would be.

Run by test_torch_triton.py in a process of their own: TensorFlow imported before Triton crashes it, and Triton reads
`TRITON_INTERPRET` when it is imported. The oracle is the parity run's, with its budget: float32's for the means and
gates, and that of x's dtype for what is rounded to it.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.dtypes import quantise
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.torch import eca
from eca_multi.torch._fast import choose, triton_kernels, triton_operators, triton_route
from eca_multi.torch._fast.triton_kernels import _place
from eca_multi.torch._fast.triton_tile import ELEMENTS, Tile

D_GATE = Quantity(Kind.TAP_GRADIENT, "gate")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def rng(request):
    return np.random.default_rng(list(request.node.originalname.encode()))


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
        assert triton_route.available(x, w)
        y, pooled, g = triton_route.forward(x, w, *self.options)
        dg = None if dg is None else torch.from_numpy(dg).float()
        dx, dw = triton_route.backward(dy, x, w, pooled, g, dg, *self.options)
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
            alone = self.solve(x, w, np.zeros_like(dy), self.dtype, {D_GATE: dg})
            for name in ("dx", "dw"):
                solved[name] = tuple(a + b for a, b in zip(solved[name], alone[name], strict=True))
        return {n: (solved[n][0], SAFETY["analytic"] * solved[n][1]) for n in ("y", "pooled", "gate", "dx", "dw")}

    def solve(self, x, w, dy, dtype, given=MappingProxyType({})):
        w = w[:, 0] if len(w) > 1 else w[0, 0]
        config = {"padding": self.padding, "gate": self.gate}
        tensors = {"inputs": {"x": x}, "weights": {"w": w}, "cotangents": {"y": dy}, "given": given}
        return solve(Job("case", dtype, config, {}, ("y",), **tensors))


def assert_within_budget(got, expected):
    arrays = {name: got[name].double().numpy().reshape(value.shape) for name, (value, _) in expected.items()}
    far = [name for name, (value, budget) in expected.items() if not (np.abs(arrays[name] - value) <= budget).all()]
    assert not far, f"far from the oracle: {far}"


CASES = {
    "1-D": Case((2, 10, 7)),
    "2-D, 7x7": Case((2, 10, 7, 7), (1, 1, 5)),
    "3-D": Case((2, 6, 3, 2, 5)),
    "1x1": Case((2, 20, 1, 1)),
    "k = 1": Case((1, 10, 3, 5), (1, 1, 1)),
    "k = 9": Case((1, 24, 3, 5), (1, 1, 9)),
    "k > C": Case((1, 3, 4, 5), (1, 1, 9)),
    "one channel": Case((2, 1, 5, 3)),
    "ECA-NS": Case((2, 10, 3, 5), (10, 1, 3)),
    "circular": Case((1, 10, 3, 5), (1, 1, 5), "circular"),
    "circular, k//2 = C": Case((1, 4, 3, 5), (1, 1, 9), "circular"),
    "circular, ECA-NS": Case((1, 10, 3, 5), (10, 1, 5), "circular"),
    "hard_sigmoid": Case((1, 10, 3, 5), gate="hard_sigmoid"),
    "2sigmoid": Case((1, 10, 3, 5), gate="2sigmoid"),
    "blocks": Case((2, 150, 3, 3), (1, 1, 5)),  # of channels: more than one tile holds
    "blocks, k = 9, ECA-NS": Case((1, 150, 3, 3), (150, 1, 9)),
    "blocks, k = 65": Case((1, 100, 2, 2), (1, 1, 65)),
    "blocks, circular, ECA-NS": Case((1, 100, 3, 3), (100, 1, 7), "circular", "2sigmoid"),
    "blocks, circular, k = 65": Case((1, 70, 2, 2), (1, 1, 65), "circular"),
    "steps": Case((1, 6, 50, 101)),  # of positions: the tile has no room for all of them
    "blocks, steps": Case((1, 70, 37, 23), (1, 1, 7)),
    "blocks, steps, circular": Case((1, 70, 37, 23), (1, 1, 7), "circular", "hard_sigmoid"),
}


@pytest.mark.parametrize(
    ("dtype", "columns"),
    [("float32", False), ("float32", True), ("float16", False), ("bfloat16", True)],
    ids=["float32", "float32 channels_last", "float16", "bfloat16 channels_last"],
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_kernels_agree_with_the_oracle(case, dtype, columns, rng):
    case = replace(case, dtype=dtype, columns=columns)
    x, w, dy, _ = case.draw(rng)
    assert_within_budget(case.run(x, w, dy), case.expected(x, w, dy))


@pytest.mark.parametrize("name", ["2-D, 7x7", "circular, ECA-NS", "hard_sigmoid", "2sigmoid", "blocks"])
def test_the_gate_has_a_cotangent_of_its_own(name, rng):
    case = CASES[name]
    x, w, dy, dg = case.draw(rng)
    assert_within_budget(case.run(x, w, dy, dg), case.expected(x, w, dy, dg))
    with pytest.raises(AssertionError, match=r"\['dx', 'dw'\]"):
        assert_within_budget(case.run(x, w, dy), case.expected(x, w, dy, dg))


@pytest.mark.parametrize("columns", [False, True], ids=["contiguous", "channels_last"])
def test_a_cotangent_may_lie_otherwise_in_memory(columns, rng):
    case = replace(CASES["2-D, 7x7"], columns=columns)
    x, w, dy, _ = case.draw(rng)
    x, w = case.tensor(x), case.tensor(w)
    _, pooled, g = triton_route.forward(x, w, "zeros", "sigmoid")
    rows = torch.from_numpy(dy).float()
    for dy in (rows, rows.to(memory_format=torch.channels_last), rows[:, :, :1, :1].expand(x.shape)):
        given = triton_route.backward(dy, x, w, pooled, g, None, "zeros", "sigmoid")
        same = triton_route.backward(case.laid_out(dy.contiguous()), x, w, pooled, g, None, "zeros", "sigmoid")
        assert all(map(torch.equal, given, same))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "2sigmoid"])
def test_what_is_not_finite_reaches_its_neighbours_alone(gate, bad, rng):
    """As in the usual code: a channel that a tap does not reach keeps its value, though the tile multiplies them."""
    x, w, dy, _ = (torch.from_numpy(a).float() for a in Case((1, 10, 3, 5)).draw(rng))
    x[0, 4, 1, 2] = bad
    x.requires_grad_()
    there = eca(x, w, gate=gate)
    (dx,) = torch.autograd.grad(there, x, dy)
    with np.errstate(invalid="ignore", over="ignore"):
        here, pooled, g = triton_route.forward(x.detach(), w, "zeros", gate)
        dx_here, _ = triton_route.backward(dy, x.detach(), w, pooled, g, None, "zeros", gate)
    assert 0 < (~there.isfinite()).sum() < there.numel()
    torch.testing.assert_close(here, there.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert dx_here[:, [0, 1, 7, 8, 9]].isfinite().all()
    if gate != "hard_sigmoid":  # whose slope at NaN is anything
        assert not dx.isfinite().all()
        torch.testing.assert_close(dx_here, dx, rtol=1e-5, atol=1e-5, equal_nan=True)


# --- the comparison can fail --------------------------------------------------------------------------------------


@triton.jit
def padding_not_masked(C, blocks, halo, own, E: tl.constexpr, CIRCULAR: tl.constexpr):
    """In place of zeros, the channel at the edge."""
    n, c, _, writes = _place(C, blocks, halo, own, E, CIRCULAR)
    return n, tl.minimum(tl.maximum(c, 0), C - 1), c < C + halo, writes


@triton.jit
def gate_rounded(z, GATE: tl.constexpr):
    return tl.sigmoid(z).to(tl.bfloat16).to(tl.float32)


def halo_off_by_one(tile):
    return tile._replace(halo=tile.halo - 1, own=tile.own + 2)


@pytest.mark.parametrize(
    ("name", "broken", "far"),
    [
        ("_place", padding_not_masked, r"'y', 'pooled'|'y', 'gate', 'dx'"),
        ("_gate", gate_rounded, r"'y', 'gate', 'dx'"),
        ("Tile", halo_off_by_one, r"'y', 'gate', 'dx'"),
    ],
)
def test_a_broken_kernel_is_refused(name, broken, far, rng, monkeypatch):
    case = CASES["blocks"]
    x, w, dy, _ = case.draw(rng)
    expected = case.expected(x, w, dy)
    assert_within_budget(case.run(x, w, dy), expected)
    if name == "Tile":
        broken = SimpleNamespace(of=lambda *args: halo_off_by_one(Tile.of(*args)))
    monkeypatch.setattr(triton_operators if name == "Tile" else triton_kernels, name, broken)
    with pytest.raises(AssertionError, match=far):
        assert_within_budget(case.run(x, w, dy), expected)


# --- tiles and traffic --------------------------------------------------------------------------------------------

# Channels, extent and k of ResNet-50's four stages, and how often x is read where it is contiguous or channels_last.
STAGES = [(256, 56, 5, 2, 2), (512, 28, 5, 1, 2), (1024, 14, 5, 1, 1), (2048, 7, 7, 1, 1)]


def test_tiles_are_legal_and_cover_the_channels():
    for channels, positions, k, padding, columns in product(
        (1, 2, 20, 64, 65, 100, 512, 2048), (1, 49, 196, 3136, 50176), (1, 3, 9, 65), ("zeros", "circular"), (0, 1)
    ):
        if padding == "circular" and k // 2 > channels:
            continue
        tile = Tile.of(channels, positions, k, padding, bool(columns))
        assert tile.channels * tile.positions <= ELEMENTS
        assert {tile.channels, tile.positions} <= {1 << i for i in range(20)}
        assert tile.own + 2 * tile.halo == tile.channels <= 2 * tile.own
        assert (tile.blocks - 1) * tile.own < channels <= tile.blocks * tile.own


@pytest.mark.parametrize("columns", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("channels", "extent", "k", "rows_read", "columns_read"), STAGES)
def test_traffic_is_what_the_page_says(channels, extent, k, rows_read, columns_read, columns):
    tile = Tile.of(channels, extent**2, k, "zeros", columns)
    assert (tile.positions < extent**2) == ((columns_read if columns else rows_read) == 2)


@pytest.mark.parametrize(("name", "sweeps"), [("blocks", 1), ("steps", 2), ("2-D, 7x7", 1)])
def test_elements_are_read_once_but_for_the_halo(name, sweeps, rng, monkeypatch):
    """Count what the kernels read and write: once of all, and again what the tile has no room for."""
    case = CASES[name]
    tile = Tile.of(case.shape[1], math.prod(case.shape[2:]), case.kernel[-1], "zeros", False)
    read, counted = triton_kernels._read, []

    def counting(x, at, mask):
        counted.append(int(mask.handle.data.sum()))
        return read(x, at, mask)

    monkeypatch.setattr(triton_kernels, "_read", counting)
    n, channels, positions = case.shape[0], case.shape[1], math.prod(case.shape[2:])
    halo = n * 2 * tile.halo * (tile.blocks - 1) * positions
    again = n * channels * max(0, positions - tile.positions)
    x, w, dy, _ = case.draw(rng)
    case.run(x, w, dy)
    whole = n * channels * positions + halo
    assert (again > 0) == (sweeps == 2)
    assert sum(counted) == 3 * whole + 2 * again  # x forward; x and dy backward


# --- the layer's function ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2-D, 7x7", "ECA-NS", "circular"])
def test_the_layer_takes_the_kernels(name, rng, monkeypatch):
    """A GPU's tensors take this way; here the interpreter's do."""
    case, called = CASES[name], []
    for step in ("forward", "backward"):
        kernel = getattr(triton_route, step)
        monkeypatch.setattr(
            triton_route, step, lambda *given, step=step, kernel=kernel: called.append(step) or kernel(*given)
        )
    monkeypatch.setattr(choose, "SMALL", 0)
    x, w, dy, _ = arrays = case.draw(rng)
    x, w, dy = (case.tensor(a) for a in (x, w, dy))
    y, g = eca(x.requires_grad_(), w.requires_grad_(), padding=case.padding, gate=case.gate, return_gate=True)
    y.backward(dy)
    assert called == ["forward", "backward"]
    got = {"y": y.detach(), "gate": g.detach(), "dx": x.grad, "dw": w.grad}
    expected = case.expected(*arrays[:3])
    assert_within_budget(got, {name: expected[name] for name in got})


# --- operators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dg", [False, True], ids=["dy", "dy and dg"])
def test_the_operators_are_what_they_claim(dg, rng):
    case = replace(CASES["ECA-NS"], columns=True)
    x, w, dy, gates = case.draw(rng)
    x, w, dy = map(case.tensor, (x, w, dy))
    _, pooled, g = triton_route.forward(x, w, "zeros", "sigmoid")
    torch.library.opcheck(triton_operators.forward, (x, w, "zeros", "sigmoid"))
    dg = torch.from_numpy(gates).float() if dg else None
    torch.library.opcheck(triton_operators.backward, (dy, x, w, pooled, g, dg, "zeros", "sigmoid"))


def test_a_wider_kernel_is_not_served_and_says_so():
    x, w = torch.ones(1, 70, 2, 2), torch.ones(1, 1, 67)
    assert triton_route.available(x)
    assert not triton_route.available(x, w)
    with pytest.raises(ValueError, match=r"weight must have at most 65 taps for the Triton kernels\. Received: 67"):
        triton_route.forward(x, w, "zeros", "sigmoid")


SERVED = {
    "contiguous": (torch.ones(2, 4, 3, 5), True),
    "channels_last": (torch.ones(2, 3, 5, 4).movedim(-1, 1), True),
    "1-D channels_last": (torch.ones(2, 5, 4).movedim(-1, 1), True),
    "bfloat16": (torch.ones(2, 4, 3, dtype=torch.bfloat16), True),
    "float64": (torch.ones(2, 4, 3, dtype=torch.float64), False),
    "rank 2": (torch.ones(2, 4), False),
    "empty": (torch.ones(0, 4, 3), False),
    "transposed": (torch.ones(2, 4, 3, 5).mT, False),
    "strided": (torch.ones(2, 4, 3, 5)[..., ::2], False),
    "meta": (torch.ones(2, 4, 3, device="meta"), False),
}


@pytest.mark.parametrize(("x", "served"), SERVED.values(), ids=SERVED)
def test_what_is_served(x, served, monkeypatch):
    assert triton_route.available(x) is served
    assert not triton_route.available(x, torch.ones(1, 1, 3, dtype=torch.float64))
    monkeypatch.setenv("ECA_MULTI_TRITON", "0")
    assert not triton_route.available(x)


def test_tensors_of_the_cpu_need_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton_kernels, "INTERPRETED", False)
    assert not triton_route.available(torch.ones(2, 4, 3))
