"""Whose fault a red tensor is: what becomes ROUNDING, and what never does."""

from dataclasses import replace

import pytest

from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.job import identified
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.judge.blame import UNTOLD, Witnesses, blamed, excusable, place
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.mutants.layer import MUTANTS
from eca_multi.parity.mutants.layer import run as run_mutant
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.parity.specs.eca import SPEC, Torch

FRAMEWORKS = {"torch": "torch", "keras-tensorflow": "tensorflow", "keras-jax": "jax", "linen": "jax", "nnx": "jax"}
PLACE = ("tokens", "bfloat16", "weight_grad", "dbias")


def cell(runner, use=None, dtype="bfloat16", verdict=None, snr=6.0, check="weight_grad", tensor="dbias"):
    """A cell that uses a share of its budget; a share above 1 exceeds it."""
    kind = verdict or (Verdict.EXCEEDS_BUDGET if (use or 0.0) > 1 else Verdict.WITHIN_BUDGET)
    return Cell(runner, "tokens", dtype, check, tensor, Judgement(kind, use, metrics={"snr_db": snr}), "stochastic")


def run(*cells, float32=0.1, **witnesses):
    """Blame cells in bfloat16, whose runners use `float32` of the budget of that dtype; return them by runner."""
    right = [replace(cell(c.runner, float32), dtype="float32") for c in cells if c.dtype == "bfloat16"]
    options = {"c": 4.0, "frameworks": FRAMEWORKS, **witnesses}
    judged = blamed([*cells, *right], Witnesses(**options))
    return {c.runner: c for c in judged if c.dtype == "bfloat16"}


def verdicts(*cells, **options):
    return {runner: (c.verdict.value, c.blame) for runner, c in run(*cells, **options).items()}


FAIL, ROUNDING = "EXCEEDS_BUDGET", "ROUNDING"


def test_an_error_that_another_framework_has_too_is_rounding():
    found = verdicts(cell("torch", 5.0), cell("linen", 7.0), cell("keras-tensorflow", 0.5))
    assert found["torch"] == (ROUNDING, "rounding shared by torch and jax")
    assert found["linen"] == (ROUNDING, "rounding shared by torch and jax")
    assert found["keras-tensorflow"] == ("WITHIN_BUDGET", "")


def test_a_port_that_is_off_alone_is_at_fault():
    assert verdicts(cell("torch", 5.0), cell("linen", 0.5))["torch"] == (FAIL, "this port alone")


def test_two_ports_on_one_framework_do_not_excuse_each_other():
    found = verdicts(cell("linen", 5.0), cell("nnx", 5.0), cell("torch", 0.5))
    assert found["linen"] == (FAIL, "nnx too")
    unknown = verdicts(cell("linen", 5.0), cell("mine", 5.0), cell("torch", 0.5))
    assert {unknown["linen"][0], unknown["mine"][0]} == {FAIL}


def test_a_much_larger_error_is_not_shared():
    found = verdicts(cell("linen", 9.0), cell("keras-tensorflow", 2.0), cell("torch", 0.5))
    assert (found["linen"][0], found["keras-tensorflow"][0]) == (FAIL, ROUNDING)


@pytest.mark.parametrize("float32", [5.0, None])
def test_a_port_that_is_wrong_or_not_judged_in_float32_is_at_fault(float32):
    cells = [cell("torch", 5.0), cell("linen", 5.0), cell("keras-jax", 0.1)]
    right = [cell(name, float32, "float32") for name in ("torch", "linen")] if float32 else []
    found = blamed([*cells, *right], Witnesses(4.0, FRAMEWORKS))
    assert {c.verdict.value for c in found if c.dtype == "bfloat16" and c.runner != "keras-jax"} == {FAIL}
    assert not excusable([*cells, *right])


@pytest.mark.parametrize("verdict", [Verdict.SHAPE_MISMATCH, Verdict.ERROR, Verdict.NONFINITE_MISMATCH])
def test_any_other_fault_in_float32_takes_the_excuse(verdict):
    cells = [cell(name, 5.0) for name in ("torch", "linen")] + [cell(n, 0.1, "float32") for n in ("torch", "linen")]
    assert len(excusable(cells)) == 2
    other = cell("torch", None, "float32", verdict, check="forward", tensor="y")
    assert [c.runner for c in excusable([*cells, other])] == ["linen"]


def test_what_float32_cannot_see_excuses_nothing():
    blind = replace(cell("torch", 0.1, "float32"), judgement=Judgement(Verdict.INCONCLUSIVE))
    assert not excusable([cell("torch", 5.0), blind])


@pytest.mark.parametrize("check", ["roundtrip", "determinism", "nonfinite"])
def test_what_is_compared_bit_by_bit_is_never_rounding(check):
    cells = [cell(n, 5.0, check=check) for n in ("torch", "linen")]
    assert not excusable([*cells, *(cell(n, 0.1, "float32", check=check) for n in ("torch", "linen"))])


@pytest.mark.parametrize("verdict", [Verdict.SHAPE_MISMATCH, Verdict.DTYPE_MISMATCH, Verdict.MISSING_TAP])
def test_what_is_no_number_is_never_rounding(verdict):
    found = run(cell("torch", None, verdict=verdict), cell("linen", None, verdict=verdict))
    assert {c.verdict for c in found.values()} == {verdict}


def test_an_infinity_is_shared_by_an_infinity_alone():
    overflow = {"verdict": Verdict.NONFINITE_MISMATCH}
    both = verdicts(cell("torch", **overflow), cell("linen", **overflow))
    assert {verdict for verdict, _ in both.values()} == {ROUNDING}
    one = verdicts(cell("torch", **overflow), cell("linen", 5.0))
    assert one["torch"][0] == "NONFINITE_MISMATCH"


def test_the_references_own_layer_shows_the_rounding_of_its_framework():
    own = {PLACE: cell("own", 5.0)}
    found = verdicts(cell("linen", 6.0), cell("torch", 0.5), own=own, own_framework="torch")
    assert found["linen"] == (ROUNDING, "rounding shared by the reference's own layer in PyTorch")
    right = {PLACE: cell("own", 0.5)}
    assert verdicts(cell("linen", 6.0), cell("torch", 0.5), own=right, own_framework="torch")["linen"][0] == FAIL


FACTS = {"accumulation.bias_gradient.bfloat16": "bfloat16", "accumulation.kernel_gradient.bfloat16": "float32"}


KNOWN = {"axes": {PLACE: 1}, "operation": lambda place: "linear", "fingerprint": lambda runner: FACTS}


def test_a_fact_of_the_framework_is_named():
    found = verdicts(cell("linen", 90.0), cell("torch", 0.5), **KNOWN)
    says = "known: JAX's bias gradient in bfloat16 (it adds up in bfloat16)"
    assert found["linen"] == (ROUNDING, says)


def test_the_bias_of_a_convolution_is_a_bias():
    found = verdicts(cell("linen", 90.0), cell("torch", 0.5), **{**KNOWN, "operation": lambda place: "conv2d.bias"})
    assert found["linen"][0] == ROUNDING


@pytest.mark.parametrize(
    ("change", "witnesses"),
    [
        ({}, {"axes": {PLACE: 2}}),  # a matrix is no bias
        ({}, {"axes": {}}),  # an input's gradient is none either
        ({}, {"operation": lambda place: "conv1d"}),  # a kernel of one axis is no bias
        ({}, {"operation": lambda place: ""}),  # the reference is no PyTorch layer
        ({"snr": -3.0}, {}),  # larger than the tensor: no sum that lost some of its terms
        ({}, {"fingerprint": lambda runner: {"accumulation.bias_gradient.bfloat16": "float32"}}),
        ({}, {"fingerprint": lambda runner: {"accumulation.bias_gradient.bfloat16": "error: it raised"}}),
        ({}, {"fingerprint": lambda runner: {"accumulation.bias_gradient.float16": "float16"}}),
        ({}, {"fingerprint": lambda runner: {}}),
        ({}, {"excuses": False}),  # a strict specification
    ],
)
def test_a_fact_excuses_only_what_it_explains(change, witnesses):
    options = {**KNOWN, **witnesses}
    assert verdicts(cell("linen", 90.0, **change), cell("torch", 0.5), **options)["linen"][0] == FAIL


WINDOWS = {
    "fingerprint": lambda runner: {"accumulation.window_sum.bfloat16": "bfloat16"},
    "operation": lambda place: "avg_pool2d",
}


@pytest.mark.parametrize(
    ("changes", "witnesses", "verdict"),
    [
        ({}, {}, ROUNDING),
        ({}, {"operation": lambda place: ""}, FAIL),  # not the only operation of the layer
        ({}, {"operation": lambda place: "max_pool2d"}, FAIL),  # which adds up nothing
        ({}, {"fingerprint": lambda runner: {"accumulation.window_gradient.bfloat16": "bfloat16"}}, FAIL),
        ({"check": "input_grad", "tensor": "dx"}, {}, FAIL),  # a sum over other windows, with a probe of its own
        ({"snr": -3.0}, {}, FAIL),
        ({"check": "taps", "tensor": "pooled"}, {}, FAIL),
    ],
)
def test_the_sum_over_a_window_explains_the_output_of_a_pooling_alone(changes, witnesses, verdict):
    named = {"check": "forward", "tensor": "y", **changes}
    right = [cell("linen", 0.1, "float32", **{k: named[k] for k in ("check", "tensor")})]
    judged = blamed([cell("linen", 5.0, **named), *right], Witnesses(4.0, FRAMEWORKS, **{**WINDOWS, **witnesses}))
    assert judged[0].verdict.value == verdict
    if verdict == ROUNDING:
        assert judged[0].blame == "known: JAX's sum over a window in bfloat16 (it adds up in bfloat16)"


def test_without_float32_nothing_is_excused_and_the_run_says_so():
    [alone] = blamed([cell("linen", 5.0)], Witnesses(4.0, FRAMEWORKS, **KNOWN))
    assert (alone.verdict.value, alone.blame) == (FAIL, UNTOLD)
    assert UNTOLD not in verdicts(cell("linen", 5.0), **{**KNOWN, "axes": {}})["linen"][1]
    [shape] = blamed([cell("linen", verdict=Verdict.SHAPE_MISMATCH)], Witnesses(4.0, FRAMEWORKS))
    [strict] = blamed([cell("linen", 5.0)], Witnesses(4.0, FRAMEWORKS, excuses=False))
    assert shape.blame == strict.blame == ""


def test_probes_run_only_where_nothing_else_decides():
    def measured(runner):
        raise AssertionError("not asked for")

    asking = {"axes": {PLACE: 1}, "operation": lambda place: "linear", "fingerprint": measured}
    verdicts(cell("torch", 5.0), cell("linen", 7.0), **asking)
    verdicts(cell("torch", 0.5), **asking)
    verdicts(cell("linen", 5.0), **asking, excuses=False)
    with pytest.raises(AssertionError, match="not asked for"):
        verdicts(cell("linen", 5.0), **asking)


def test_where_every_runner_is_off_the_reference_is_suspected():
    found = verdicts(*(cell(name, 5.0) for name in ("torch", "linen", "keras-tensorflow")), float32=5.0)
    assert found["torch"][1] == "every runner alike: look at the reference, the data and the weight maps first"


# --- no planted fault hides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param("offsets", marks=pytest.mark.slow), "per-channel"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_mutant_hides_as_rounding(case, dtype):
    """Each mutant as a port, beside a right one on another framework, with every fact against it that there is."""
    engine = TorchEngine(Torch())
    by = Judge(BASE, "analytic")

    def cells_of(name):
        found = []
        for kind in ("float32", dtype):
            [task] = tasks(SPEC, [SPEC.case(case)], [kind], BASE)
            solution = identified(solve(task.job), task.job)
            results = engine.evaluate(task.job) if name == "right" else run_mutant(engine, task.job, MUTANTS[name])
            found += by.cells(name, task, results, solution) if results is not None else []
        return found

    right = cells_of("right")
    assert all(c.green or c.verdict is Verdict.INCONCLUSIVE for c in right)
    own = {place(c): c for c in right}
    facts = {f"accumulation.{op}_gradient.{dtype}": dtype for op in ("bias", "norm", "kernel")}
    killed = 0
    for name in MUTANTS:
        mutated = cells_of(name)
        axes = {place(c): 1 for c in mutated if c.tensor.startswith("dw")}
        witnesses = Witnesses(
            2.0, {name: "torch", "right": "jax"}, own, "torch", axes, lambda _: "conv1d", lambda _: facts
        )
        judged = blamed([*mutated, *right], witnesses)
        assert not [c for c in judged if c.verdict is Verdict.ROUNDING], name
        killed += any(c.verdict.disagrees for c in judged)
    assert killed >= 5
