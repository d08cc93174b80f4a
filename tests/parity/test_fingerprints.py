"""The fingerprints: what each framework's numerics are found to be, each in a process of its own, and that the probes
would find it otherwise if it were. The values are those of the pinned versions on a CPU."""

import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.explain.fingerprints import PROBES, accumulation, explain, facts
from eca_multi.parity.explain.fingerprints.numpy import Framework
from eca_multi.parity.explain.fingerprints.primitives import DTYPES, HALVES, NotApplicable
from eca_multi.parity.explain.fingerprints.table import fingerprint
from tests.support.processor import float16_arithmetic

pytestmark = pytest.mark.slow  # each framework is measured in a process of its own

ROOT = Path(__file__).parents[2]
RUNNERS = ("torch", "tensorflow", "jax", "numpy", "keras-torch", "keras-tensorflow", "keras-jax")
FRAMEWORKS = {"torch", "tensorflow", "jax", "keras"}
PROBE = """
import json, sys
from eca_multi.parity.explain.fingerprints import measure
{setting}
values = measure("{module}")
print("VALUES" + json.dumps({{"values": values, "loaded": sorted(sys.modules)}}, allow_nan=False))
"""


@cache
def measured(runner, setting=""):
    module, _, backend = runner.partition("-")
    environment = {**os.environ, "KERAS_BACKEND": backend or "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("XLA_FLAGS", None)  # conftest's
    code = PROBE.format(module=module, setting=setting)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("VALUES")[2])


def values(runner):
    return measured(runner)["values"]


# --- measured ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_probe_has_a_plain_value(runner):
    assert list(values(runner)) == list(PROBES)
    assert all(isinstance(value, str | int | float | bool) for value in values(runner).values())
    assert [name for name, value in values(runner).items() if str(value).startswith("error")] == []


def test_every_probe_has_a_meaning():
    assert all(meaning and "{" not in meaning for meaning in PROBES.values())
    assert len(set(PROBES.values())) == len(PROBES)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_probe_imports_its_framework_alone(runner):
    brought_along = {"keras": {"jax"}, "tensorflow": {"keras", "jax"}}  # by the frameworks' own imports
    module, _, backend = runner.partition("-")
    allowed = {module, backend} | brought_along.get(module, set()) | brought_along.get(backend, set())
    assert FRAMEWORKS & set(measured(runner)["loaded"]) <= allowed


# Probe: what it finds in each runner, in the order of RUNNERS. 4.5 to 4.9 and 4.13 of the research, and beyond.
F32, F16, B16, NA = "float32", "float16", "bfloat16", "n/a"
KERNEL_F16 = (F32, F32) if float16_arithmetic() else ("mixed", F16)  # torch's and TensorFlow's
FOUND = {
    "accumulation.mean.float16": (F32, F16, F32, F32, F32, F32, F32),
    "accumulation.mean.bfloat16": (F32, F32, F32, B16, F32, F32, F32),
    "accumulation.sum.float16": (F32, F16, F32, "mixed", F32, F16, F32),
    "accumulation.sum.bfloat16": (F32, F32, F32, B16, F32, F32, F32),
    "accumulation.matmul.float16": (F32,) * 7,
    "accumulation.matmul.bfloat16": (F32,) * 7,
    "accumulation.conv1d.float16": (F32,) * 7,
    "accumulation.conv1d.bfloat16": (F32,) * 7,
    "accumulation.gate_gradient.float16": (F32, F16, F16, NA, F32, F16, F16),
    "accumulation.gate_gradient.bfloat16": (F32, F32, B16, NA, F32, F32, B16),
    "accumulation.kernel_gradient.float16": (*KERNEL_F16, F32, NA, *KERNEL_F16, F32),
    "accumulation.kernel_gradient.bfloat16": (F32, F32, F32, NA, F32, F32, F32),
    "accumulation.window_sum.float16": (F32, F16, F16, NA, F32, F16, F16),
    "accumulation.window_sum.bfloat16": (F32, F32, B16, NA, F32, F32, B16),
    "accumulation.window_gradient.float16": (F16, F16, F16, NA, F16, F16, F16),
    "accumulation.window_gradient.bfloat16": (B16, F32, B16, NA, B16, F32, B16),
    "overflow.mean.float16": ("finite", "overflows", *["finite"] * 5),
    "overflow.sum.float16": ("finite", "overflows", "finite", "finite", "finite", "overflows", "finite"),
    "sigmoid.cliff.float16": (-17.344, -17.344, -11.094, -11.094, -17.344, -17.344, -11.094),
    "subnormals.float32": ("kept", "flushed", "flushed", "kept", "kept", "flushed", "flushed"),
    "subnormals.float16": ("kept",) * 7,
    "subnormals.bfloat16": ("kept", "flushed", "flushed", "kept", "kept", "flushed", "flushed"),
    "leak.conv1d.float32": ("none",) * 7,
    "leak.conv1d.float16": ("none",) * 7,
    "excess.float32": (False, False, True, False, False, False, True),  # XLA makes a fused multiply-add of it
    "inputs.matmul.float32": (F32,) * 7,
    "inputs.conv1d.float32": (F32,) * 7,
    "repeatable": (True,) * 7,
    "flag.x64": (True, True, False, True, True, True, False),
    "device.platform": ("cpu",) * 7,
    "keras.policy": (NA, NA, NA, NA, F32, F32, F32),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_is_found(runner):
    found = {name: by_runner[RUNNERS.index(runner)] for name, by_runner in FOUND.items()}
    assert {name: values(runner)[name] for name in FOUND} == found


@pytest.mark.parametrize("runner", RUNNERS)
def test_onednn_leaks_in_bfloat16(runner):
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("oneDNN has this convolution for AVX-512 alone")
    leaks = runner.rpartition("-")[2] in ("torch", "tensorflow")
    assert values(runner)["leak.conv1d.bfloat16"] == ("-2" if leaks else "none")


def test_the_leak_is_onednns():
    """A control: without oneDNN there is none; and the flags are read when the probe runs."""
    setting = "import torch; torch.backends.mkldnn.enabled = False; torch.set_float32_matmul_precision('high')"
    off = measured("torch", setting)["values"]
    assert (off["flag.onednn"], off["leak.conv1d.bfloat16"]) == (False, "none")
    assert (off["flag.matmul_precision"], values("torch")["flag.matmul_precision"]) == ("high", "highest")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the name of an instruction set of x86")
def test_float16_sums_are_the_processors():
    """A control: without AVX512-FP16, oneDNN's convolution sums its float16 gradient in float16."""
    setting = "import os; os.environ['ONEDNN_MAX_CPU_ISA'] = 'AVX2'"
    assert measured("torch", setting)["values"]["accumulation.kernel_gradient.float16"] == "mixed"


def test_the_gate_gradient_of_jax_is_far_off():
    assert values("jax")["error.gate_gradient.bfloat16"] > 0.1
    assert values("keras-jax")["error.gate_gradient.bfloat16"] > 0.1
    for runner in ("torch", "tensorflow", "keras-torch", "keras-tensorflow"):
        assert values(runner)["error.gate_gradient.bfloat16"] < 0.004
    for runner in ("torch", "keras-torch"):
        assert values(runner)["error.gate_gradient.float16"] < 0.0005


def test_the_sigmoid_below_11():
    ulp = {runner: values(runner)["sigmoid.ulp.float16"] for runner in RUNNERS}
    far = {runner for runner, error in ulp.items() if error > 200}
    assert far == {"jax", "keras-jax", "numpy"}
    assert max(error for runner, error in ulp.items() if runner not in far) <= 1
    assert all(-90 < values(runner)["sigmoid.cliff.float32"] < -87 for runner in RUNNERS)


# --- the decisions, on sums whose order and dtype are known -----------------------------------------------------------


def sequential(x, dtype):
    total = np.zeros(len(x), dtype)
    for column in x.T:
        total = (total + column.astype(dtype)).astype(dtype)
    return total


def pairwise(x, dtype):
    x = x.astype(dtype)
    while x.shape[1] > 1:
        x = np.pad(x, [(0, 0), (0, x.shape[1] % 2)])
        x = (x[:, ::2] + x[:, 1::2]).astype(dtype)
    return x[:, 0]


def lanes(x, dtype, count=16):
    """As vector instructions do: every sixteenth term into the same partial sum."""
    parts = [sequential(x[:, lane::count], dtype) for lane in range(min(count, x.shape[1]))]
    return sequential(np.stack(parts, 1), dtype)


def blocks(x, dtype, size=128):
    """Within a block in float32, between the blocks in half precision."""
    parts = [x[:, start : start + size].astype(np.float32).sum(1) for start in range(0, x.shape[1], size)]
    return sequential(np.stack(parts, 1), dtype)


@pytest.mark.parametrize("n", [9, accumulation.WINDOW, 1024, 3136])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_accumulator_is_told_in_any_order(dtype, n):
    data = accumulation.rows(128, n).astype(DTYPES[dtype])

    def told(order, accumulated_in):
        sums = order(data, accumulated_in).astype(DTYPES[dtype])
        return accumulation.accumulator(sums.astype(np.float64), n, dtype)

    for order in (sequential, pairwise, lanes):
        assert told(order, np.float32) == told(order, np.float64) == "float32"
        assert told(order, DTYPES[dtype]) == dtype
    assert told(blocks, DTYPES[dtype]) == ("float32" if n <= 128 else "mixed")


@pytest.mark.parametrize("n", [9, accumulation.WINDOW, 1024, 3136])
def test_the_rows_are_what_they_need_to_be(n):
    data, gap = accumulation.rows(64, n), 32
    assert ((data == accumulation.LARGE).sum(1) == 1).all()
    assert ((data == -accumulation.LARGE).sum(1) == 1).all()
    assert (n - 2) * accumulation.small(n) < gap / 2  # all of it together is lost beside LARGE in half precision
    assert (
        np.float32(accumulation.LARGE) + np.float32(accumulation.small(n)) > accumulation.LARGE
    )  # one term is not in float32
    for dtype in DTYPES.values():
        assert np.array_equal(data.astype(dtype).astype(np.float64), data)


# --- the probes, on a framework with one fault ------------------------------------------------------------------------


class Exact(Framework):
    """Wide sums in both layouts, and gradients of what is linear in a broadcast gate: nothing to be found."""

    def sum(self, x, axis):
        return x.astype(np.float64).sum(axis).astype(x.dtype)

    def mean(self, x, axis):
        return x.astype(np.float64).mean(axis).astype(x.dtype)

    def vjp(self, function, at, cotangent):
        if at.shape[0] != 1:
            raise NotApplicable  # the kernel's gradient
        terms = function(np.ones_like(at)) * cotangent
        return self.sum(terms.reshape(-1, terms.shape[-1]), 0)


class HalfSums(Exact):
    def sum(self, x, axis):
        moved = np.moveaxis(x, axis, -1)
        return sequential(moved.reshape(-1, moved.shape[-1]), x.dtype).reshape(moved.shape[:-1])

    def mean(self, x, axis):
        return (self.sum(x, axis) / x.shape[axis]).astype(x.dtype)


class HalfWindows(Exact):
    """It has windows, whose sums are in half precision and whose gradients are not."""

    wide = False

    def window_mean(self, x, size):
        parts = np.lib.stride_tricks.sliding_window_view(x[..., 0], size, axis=1)
        sums = parts.astype(np.float64).sum(-1) if self.wide else sequential(parts.reshape(-1, size), x.dtype)
        return (sums.reshape(parts.shape[:2]) / size).astype(x.dtype)[..., None]


class WideWindows(HalfWindows):
    wide = True


class Flushing(Exact):
    def add(self, a, b):
        return self.flush(self.flush(a) + self.flush(b))

    def multiply(self, a, b):
        return self.flush(self.flush(a) * self.flush(b))

    def flush(self, x):
        return np.where(np.abs(x) < ml_dtypes.finfo(x.dtype).smallest_normal, np.zeros_like(x), x)


class FlushingProducts(Flushing):
    def add(self, a, b):
        return a + b


class Leaking(Exact):
    def conv1d(self, x, kernel):
        out = super().conv1d(x, kernel)
        return np.where(np.isfinite(np.roll(x, -2, axis=1)), out, np.nan).astype(x.dtype)


class Rounding(Exact):
    def __init__(self, bits):
        self.bits = bits

    def matmul(self, a, b):
        return super().matmul(*(self.round(x) if x.dtype == np.float32 else x for x in (a, b)))

    def round(self, x):
        scale = 2.0**self.bits
        return (np.round(x * scale) / scale).astype(np.float32)


class WideProducts(Exact):
    def graph(self, function):
        return lambda *xs: function(*(x.astype(np.float64) for x in xs))


class Restless(Exact):
    calls = 0

    def mean(self, x, axis):
        self.calls += 1
        return super().mean(x, axis) * np.float32(1 + self.calls * 2.0**-20).astype(x.dtype)


class Raising(Exact):
    def mean(self, x, axis):
        raise RuntimeError("several lines\nno mean here")


class Undefined(Exact):
    def sigmoid(self, x):
        return x * x.dtype.type(np.nan)


ONE_FAULT = {
    "half sums": (
        HalfSums(),
        {
            "accumulation.mean.float16": "float16",
            "accumulation.mean.bfloat16": "bfloat16",
            "accumulation.sum.float16": "float16",
            "accumulation.sum.bfloat16": "bfloat16",
            "accumulation.gate_gradient.float16": "float16",
            "accumulation.gate_gradient.bfloat16": "bfloat16",
            "overflow.mean.float16": "overflows",
            "overflow.sum.float16": "overflows",
        },
    ),
    "half sums over windows": (HalfWindows(), {f"accumulation.window_sum.{half}": half for half in HALVES}),
    "wide sums over windows": (WideWindows(), {f"accumulation.window_sum.{half}": "float32" for half in HALVES}),
    "flushing": (Flushing(), {f"subnormals.{dtype}": "flushed" for dtype in DTYPES}),
    "flushing products": (FlushingProducts(), {f"subnormals.{dtype}": "mixed" for dtype in DTYPES}),
    "leaking": (Leaking(), {f"leak.conv1d.{dtype}": "-2" for dtype in DTYPES}),
    "tf32": (Rounding(10), {"inputs.matmul.float32": "tf32"}),
    "bfloat16 passes": (Rounding(7), {"inputs.matmul.float32": "bfloat16"}),
    "wide products": (WideProducts(), {f"excess.{dtype}": True for dtype in DTYPES}),
    "restless": (Restless(), {"batch_invariant.mean": False, "repeatable": False}),
    "undefined": (
        Undefined(),
        {f"sigmoid.cliff.{dtype}": "never" for dtype in DTYPES} | {f"sigmoid.ulp.{dtype}": "nan" for dtype in DTYPES},
    ),
    "raising": (
        Raising(),
        {
            "accumulation.mean.float16": "error: RuntimeError: no mean here",
            "accumulation.mean.bfloat16": "error: RuntimeError: no mean here",
            "overflow.mean.float16": "error: RuntimeError: no mean here",
            "batch_invariant.mean": "error: RuntimeError: no mean here",
            "repeatable": "error: RuntimeError: no mean here",
        },
    ),
}


@cache
def exact():
    return fingerprint(Exact())


def test_an_exact_framework_is_found_exact():
    assert {exact()[name] for name in PROBES if name.startswith(("accumulation", "inputs"))} == {"float32", "n/a"}
    assert {exact()[name] for name in PROBES if name.startswith("overflow")} == {"finite"}
    assert exact()["error.gate_gradient.bfloat16"] < 0.004


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_one_fault_changes_its_own_values_alone(fault):
    primitives, expected = ONE_FAULT[fault]
    found = fingerprint(primitives)
    # The size of an error goes with its accumulator; and BLAS decides what a sample's bits depend on.
    ignored = ("error.gate_gradient.float16", "error.gate_gradient.bfloat16", "batch_invariant.matmul")
    changed = {name: value for name, value in found.items() if value != exact()[name] and name not in ignored}
    assert changed == expected


# --- explain ----------------------------------------------------------------------------------------------------------

TAP, D_TAP = Quantity(Kind.TAP, "stage"), Quantity(Kind.TAP_GRADIENT, "stage")
Y, DX, DW = Quantity(Kind.OUTPUT, "y"), Quantity(Kind.INPUT_GRADIENT, "x"), Quantity(Kind.WEIGHT_GRADIENT, "w")
FORWARD, BACKWARD = (TAP, Y, Quantity(Kind.STATE, "mean")), (D_TAP, DX, DW)
ALL = ("mean", "conv2d", "sigmoid", "sum", "linear", "broadcast_mul")  # of an ECA and more
HALF_FACTS = {
    name: "mixed" if name.startswith("accumulation") else "overflows" if name.startswith("overflow") else "-2"
    for name in PROBES
    if name.startswith(("accumulation", "overflow", "leak"))
} | {"sigmoid.cliff.float16": -11.094}


def test_explain_reads_probes_that_exist():
    tables = (facts._FORWARD, facts._BACKWARD, facts._OF_KERNEL)
    known = [fact for table in tables for row in table.values() for fact in row]
    assert {fact.probe.format(dtype) for fact in known for dtype in fact.dtypes} <= set(PROBES)
    assert set(facts._DOES.values()) == {word for table in tables for word in table}


@pytest.mark.parametrize(
    ("runner", "quantity", "dtype", "operations", "line"),
    [
        ("jax", D_TAP, "bfloat16", ["broadcast_mul"], "gate-gradient reduction accumulates in bfloat16"),
        ("keras-jax", DX, "bfloat16", ALL, "gate-gradient reduction accumulates in bfloat16"),
        (
            "jax",
            DW,
            "bfloat16",
            ["conv1d", "sigmoid", "broadcast_mul"],
            "gate-gradient reduction accumulates in bfloat16",
        ),
        ("tensorflow", TAP, "float16", ["mean"], "mean accumulates in float16"),
        ("tensorflow", Y, "float16", ALL, "mean accumulates in float16"),
        pytest.param(
            *("torch", DW, "float16", ["conv1d"]),
            None if float16_arithmetic() else "kernel-gradient reduction accumulates partly in float16",
            id="torch-dw-float16",
        ),
        ("jax", TAP, "float16", ["sigmoid"], "float16 sigmoid is exactly 0 from -11.094 down"),
        (
            "jax",
            D_TAP,
            "float16",
            ["sigmoid"],
            "float16 sigmoid is exactly 0 from -11.094 down, and so is its gradient",
        ),
        ("keras-tensorflow", TAP, "float16", ["pow", "sum"], "sum accumulates in float16"),
        ("torch", D_TAP, "bfloat16", ["broadcast_mul"], None),
        ("torch", DX, "bfloat16", ALL, None),
        ("torch", Y, "float16", ["mean", "sigmoid"], None),
        ("keras-tensorflow", TAP, "float16", ["mean"], None),
        ("jax", TAP, "bfloat16", ["sigmoid"], None),
        ("jax", D_TAP, "float32", ["broadcast_mul"], None),
    ],
)
def test_explain_on_what_is_measured(runner, quantity, dtype, operations, line):
    assert explain(quantity, dtype, values(runner), operations) == line


@pytest.mark.parametrize("quantity", FORWARD + BACKWARD, ids=str)
@pytest.mark.parametrize(
    "operations", [(), ("relu",), ("group_norm",), ("gru",), ("max_pool2d", "mul"), ("embedding", "add")], ids=str
)
def test_a_fact_is_not_named_where_its_operation_is_not(quantity, operations):
    """y, dx and dw are the names of every layer's tensors: a ReLU has no sigmoid, and a GRU no gate of two shapes."""
    found = HALF_FACTS | {"inputs.matmul.float32": "tf32", "inputs.conv1d.float32": "tf32"}
    for dtype in DTYPES:
        for nonfinite in (False, True):
            assert explain(quantity, dtype, found, operations, nonfinite=nonfinite) is None
    assert any(explain(quantity, dtype, found, ALL) for dtype in DTYPES)  # a control


@pytest.mark.parametrize("quantity", FORWARD + BACKWARD, ids=str)
@pytest.mark.parametrize("nonfinite", [False, True])
def test_half_precision_explains_no_float32(quantity, nonfinite):
    assert explain(quantity, "float32", HALF_FACTS, ALL, nonfinite=nonfinite) is None
    assert explain(quantity, "float64", HALF_FACTS, ALL, nonfinite=nonfinite) is None


@pytest.mark.parametrize("quantity", FORWARD, ids=str)
def test_backward_explains_no_forward(quantity):
    backward = {name: value for name, value in HALF_FACTS.items() if "gradient" in name}
    assert all(explain(quantity, dtype, backward, ALL) is None for dtype in ("float16", "bfloat16"))
    assert explain(D_TAP, "float16", backward, ALL)  # a control


@pytest.mark.parametrize("quantity", BACKWARD, ids=str)
def test_forward_sums_explain_no_backward(quantity):
    forward = {n: v for n, v in HALF_FACTS.items() if n.startswith(("accumulation", "overflow", "leak"))}
    forward = {name: value for name, value in forward.items() if "gradient" not in name}
    assert all(
        explain(quantity, dtype, forward, ALL, nonfinite=nonfinite) is None
        for dtype in ("float16", "bfloat16")
        for nonfinite in (False, True)
    )


def test_nonfinite_values_have_explanations_of_their_own():
    leak, overflow = {"leak.conv1d.bfloat16": "-2"}, {"overflow.mean.float16": "overflows"}
    said = "bfloat16 conv1d leaks NaN and Inf to -2, outside of what its kernel covers"
    assert explain(TAP, "bfloat16", leak, ["conv1d"], nonfinite=True) == said
    assert explain(TAP, "bfloat16", leak, ["conv1d"]) is None
    assert explain(TAP, "float16", leak, ["conv1d"], nonfinite=True) is None
    assert explain(TAP, "float16", overflow, ["mean"], nonfinite=True) == (
        "mean overflows on the way to a result within float16"
    )
    assert explain(TAP, "float16", overflow, ["mean"]) is None
    assert explain(TAP, "float16", {"accumulation.mean.float16": "float16"}, ["mean"], nonfinite=True) is None


@pytest.mark.parametrize("value", [None, "n/a", "none", "error: NotImplementedError: no", "float32", "finite", True])
def test_no_fact_no_explanation(value):
    found = {} if value is None else dict.fromkeys(PROBES, value)
    for quantity in FORWARD + BACKWARD:
        for dtype in DTYPES:
            assert explain(quantity, dtype, found, ALL) is explain(quantity, dtype, found, ALL, nonfinite=True) is None


def test_float32_rounding_explains_both_directions():
    found = {"inputs.conv1d.float32": "tf32", "inputs.matmul.float32": "bfloat16"}
    line = "float32 conv1d rounds its inputs to tf32"
    assert {explain(q, "float32", found, ["conv1d"]) for q in (TAP, Y, D_TAP, DX, DW)} == {line}
    assert explain(TAP, "float32", found, ["linear"]) == "float32 matmul rounds its inputs to bfloat16"
    assert {explain(q, "float32", found, ["mean", "sigmoid"]) for q in (TAP, Y, D_TAP, DX, DW)} == {None}
