"""The specifications that come with the package: what is aligned agrees, and each trap and defect is found where it is.

The quick tests run the adapters in this process, as the workers do; the slow ones start a worker for every runner.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from eca_multi import parity
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.runners import find_runners, reference_of
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.define.tensor import Kind, Quantity, labelled
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.execute.worker import make_engine
from eca_multi.parity.explain import localize
from eca_multi.parity.explain.rerun import with_taps
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.report.report import Report
from eca_multi.parity.specs import SHIPPED, attention, batch_norm, bf16_gate, conv2d, eca, find_spec, layer_norm, mlp
from eca_multi.parity.specs import squeeze_excite as se
from tests.support.processor import float16_arithmetic

EXAMPLE = Path(__file__).parents[2] / "examples/parity_my_layer.py"
CHECKS = (
    "forward",
    "input_grad",
    "weight_grad",
    "mixed",
    "roundtrip",
    "trajectory",
    "determinism",
    "nonfinite",
    "taps",
)

# Specification and cases that differ in kind; the others differ in size or data. The first is for the quick tests.
ALIGNED = {
    "layer_norm": (layer_norm.SPEC, ("offsets", "quiet")),
    "conv2d": (conv2d.SPEC, ("even", "one-window")),
    "batch_norm": (batch_norm.SPEC, ("small-batch", "inference")),
    "squeeze_excite": (se.SPEC, ("offsets", "same-sign")),
    "attention": (attention.SPEC, ("padded", "all-valid")),
    "mlp": (mlp.SPEC, ("digits",)),
    "bf16_gate:REPAIRED": (bf16_gate.REPAIRED, ("28x28",)),
    "parity_my_layer.py": (find_spec(str(EXAMPLE))[0], ("tokens",)),
}


def here(spec: Spec, runners: Sequence[str], dtype: str, cases: Sequence[str] | None = None) -> list[Cell]:
    """Run adapters in this process and return what forward, input_grad and weight_grad compare."""
    reference = make_engine("reference", reference_of(spec).adapter)
    engines = {runner.name: make_engine("runner", runner.adapter) for runner in find_runners(spec, runners)}
    by = Judge(BASE, reference.kind)
    cells = []
    for task in tasks(spec, [spec.case(name) for name in cases or [case.name for case in spec.cases]], [dtype], BASE):
        solution = reference.solve(task.job)
        for name, engine in engines.items():
            cells += by.cells(name, task, engine.evaluate(task.job), solution)
    return cells


def red(cells: Collection[Cell], runner: str, case: str | None = None) -> set[str]:
    """The tensors that disagree."""
    return {c.tensor for c in cells if c.verdict.disagrees and c.runner == runner and case in (None, c.case)}


def agrees(cells: Collection[Cell]) -> bool:
    return bool(cells) and all(cell.green for cell in cells)


# --- what is aligned agrees --------------------------------------------------------------------------------------


def test_every_spec_of_the_package_is_tested():
    elsewhere = {"eca", "networks"}  # test_parity, test_parity_networks
    assert {name.partition(":")[0] for name in ALIGNED} - {EXAMPLE.name} == set(SHIPPED) - elsewhere


@pytest.mark.parametrize("name", ALIGNED)
def test_aligned_settings_agree(name):
    spec, cases = ALIGNED[name]
    runners = [runner for runner in ("torch", "linen", "jax") if runner in spec.runners][:2]
    assert agrees(here(spec, runners, "float32", cases[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIGNED)
def test_every_runner_agrees_in_every_dtype(name):
    spec, cases = ALIGNED[name]
    short = spec if spec.training is None else replace(spec, training=replace(spec.training, steps=3))
    required = [runner.name for runner in find_runners(spec, None)]
    # All checks of one: compilers and mutants take minutes, and do not depend on the specification.
    checks = CHECKS if name == "squeeze_excite" else (*BASE, "mixed", "roundtrip", "trajectory", "determinism", "taps")
    report = parity.run(short, cases=cases, checks=checks, require=required, timeout=600)
    report.raise_for_status()
    assert {cell.check for cell in report.compared} >= {*BASE, "mixed", "determinism"}


# --- what is not aligned is found --------------------------------------------------------------------------------


def test_default_eps_of_layer_norm_is_found():
    cells = here(layer_norm.DEFAULTS, ["torch", "linen"], "float32")
    assert agrees([cell for cell in cells if cell.runner == "torch"])
    assert red(cells, "linen") >= {"y", "dx", "dscale"}


def test_default_variance_of_flax_is_found():
    cells = here(layer_norm.FAST_VARIANCE, ["torch", "nnx"], "float32")
    assert agrees([cell for cell in cells if cell.runner == "torch"])
    assert "y" in red(cells, "nnx")


def test_padding_is_found_on_even_sizes_alone():
    cells = here(conv2d.SAME, ["torch", "jax"], "float32")
    assert not red(cells, "torch")
    assert red(cells, "jax", "even") >= {"y", "dx", "dkernel"}
    assert not red(cells, "jax", "odd")


def test_an_impulse_says_where_the_windows_begin():
    (task,) = tasks(conv2d.SAME, [conv2d.SAME.case("impulse")], ["float32"], ["forward"])
    kernel = task.job.weights["kernel"]
    for runner, begin in (("torch", -1), ("jax", 0)):
        (found,) = find_runners(conv2d.SAME, [runner])
        y = make_engine("runner", found.adapter).evaluate(task.job)[Quantity(Kind.OUTPUT, "y")].values
        # The pixel lies at row 2, column 3; window (1, 1) begins at row 2 + begin and column 2 + begin.
        assert y[0, :, 1, 1] == pytest.approx(kernel[-begin, 1 - begin, 0], rel=1e-6)


def test_each_convention_of_batch_norm_is_found():
    cells = here(batch_norm.DEFAULTS, ["torch", "linen"], "float32")
    assert red(cells, "torch") == {"new_var"}  # n - 1
    assert red(cells, "torch", "inference") == set()
    assert red(cells, "linen") == {"new_mean", "new_var"}  # momentum 0.99


# --- defects of frameworks ---------------------------------------------------------------------------------------


def test_a_gate_in_bfloat16_has_wrong_gradients_under_jax():
    cells = here(bf16_gate.SPEC, ["torch", "jax"], "bfloat16", ["28x28"])
    assert not red(cells, "torch")
    assert red(cells, "jax") >= {"dx", "dw", "db"}
    assert "y" not in red(cells, "jax")


def test_the_gate_is_right_in_float32_and_when_repaired():
    assert agrees(here(bf16_gate.SPEC, ["jax"], "float32", ["28x28"]))
    assert agrees(here(bf16_gate.REPAIRED, ["jax"], "bfloat16", ["28x28"]))


@pytest.mark.parametrize("case", ["photographs", "one-position"])  # of which torch gates the first in one operation
@pytest.mark.parametrize("name", ["torch", "linen", "nnx", "jax"])
def test_ecas_steps_are_tapped(name, case):
    (task,) = tasks(eca.SPEC, [eca.SPEC.case(case)], ["float32"], ["forward"])
    (runner,) = find_runners(eca.SPEC, [name])
    engine = make_engine("runner", runner.adapter)
    results = engine.evaluate(replace(task.job, taps=tuple(eca.SPEC.taps)))
    assert labelled(results).keys() == {"y", *eca.SPEC.taps}


@pytest.mark.keras
def test_ecas_steps_are_tapped_in_keras():
    test_ecas_steps_are_tapped(f"keras-{keras.backend.backend()}", "photographs")


def test_taps_lead_to_the_gate():
    spec = bf16_gate.SPEC
    (task,) = tasks(spec, [spec.case("28x28")], ["bfloat16"], ["weight_grad"])
    reference = make_engine("reference", reference_of(spec).adapter)
    (jax,) = find_runners(spec, ["jax"])
    job = replace(task.job, taps=tuple(spec.taps))
    results, solution = make_engine("runner", jax.adapter).evaluate(job), reference.solve(job)
    stages = localize.chain(job, results, solution, reference.solve(with_taps(job, results)), Judge(BASE, "stochastic"))
    assert localize.culprit(stages).quantity == Quantity(Kind.TAP_GRADIENT, "gate")


def test_a_bias_in_bfloat16_has_a_wrong_gradient_in_flax():
    cells = here(bf16_gate.BIAS, ["torch", "linen"], "bfloat16")
    assert not red(cells, "torch")
    assert red(cells, "linen") == {"dbias"}


def test_layer_norm_in_bfloat16_has_wrong_gradients_in_torch():
    cells = here(layer_norm.HALF, ["torch", "linen"], "bfloat16")
    assert red(cells, "torch") >= {"dbias", "dbias@ones"}
    assert not red(cells, "torch") & {"y", "dx"}
    assert not red(cells, "linen")


def test_a_convolution_in_float16_has_wrong_gradients_in_torch_where_it_adds_up_in_float16():
    cells = here(conv2d.HALF, ["torch", "jax"], "float16", ["batch"])
    assert ("dkernel" in red(cells, "torch")) != float16_arithmetic()
    assert "y" not in red(cells, "torch")
    assert not red(cells, "jax")


# --- every runner ------------------------------------------------------------------------------------------------


def whole(spec: Spec, **options) -> Report:
    report = parity.run(spec, checks=BASE, timeout=600, **options)
    assert [(r.name, r.detail) for r in report.runners if r.state != "ran"] == []
    assert not [cell for cell in report.cells if cell.verdict is parity.Verdict.ERROR]
    return report


def disagreeing(report: Report, tensor: str) -> set[str]:
    return {cell.runner for cell in report.disagreements if cell.tensor == tensor}


# Each of these starts a worker for every runner; the other traps and defects are above.


@pytest.mark.slow
def test_traps_are_found_in_every_runner(no_closer_look):
    no_closer_look()
    flax, kerases = {"linen", "nnx"}, {"keras-tensorflow", "keras-jax", "keras-torch"}
    assert disagreeing(whole(layer_norm.DEFAULTS, dtypes=["float32"]), "y") == flax | kerases
    batch = whole(batch_norm.DEFAULTS, dtypes=["float32"])
    assert disagreeing(batch, "y") == kerases  # eps
    assert disagreeing(batch, "new_mean") == flax | kerases  # momentum
    assert disagreeing(batch, "new_var") == flax | kerases | {"torch"}  # n - 1 too


@pytest.mark.slow
def test_defects_are_found_in_every_runner_and_localised(no_closer_look):
    gate = whole(bf16_gate.SPEC, dtypes=["bfloat16"], cases=["28x28"])
    assert disagreeing(gate, "dw") == {"jax", "linen", "keras-jax"}
    assert disagreeing(gate, "y") == set()
    assert {(found.runner, found.culprit) for found in gate.localisations} == {
        (runner, "d_gate") for runner in ("jax", "linen", "keras-jax")
    }
    no_closer_look()
    batch = whole(conv2d.HALF, dtypes=["bfloat16", "float16"], cases=["batch"])
    assert {(cell.runner, cell.dtype) for cell in batch.disagreements if cell.tensor == "dkernel"} == (
        set()
        if float16_arithmetic()
        else {("torch", "float16"), ("keras-torch", "float16"), ("keras-tensorflow", "float16")}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "runners", "blame"),
    [
        (
            layer_norm.HALF,
            ["torch", "linen"],
            "known: PyTorch's LayerNorm gradient in bfloat16 (it adds up in bfloat16)",
        ),
        (bf16_gate.BIAS, ["torch", "linen"], "known: JAX's bias gradient in bfloat16 (it adds up in bfloat16)"),
    ],
    ids=["LayerNorm", "bias"],
)
def test_the_rounding_of_a_framework_is_no_fault_of_the_port(spec, runners, blame):
    """The exit status and the reason; without float32, the negative control, it is a disagreement."""
    report = whole(spec, runners=runners, dtypes=["float32", "bfloat16"])
    assert {cell.blame for cell in report.rounding} == {blame}
    assert (report.exit_code, report.disagreements) == (0, [])
    assert replace(report, strict=True).exit_code == 1
    alone = whole(spec, runners=runners, dtypes=["bfloat16"])
    assert alone.exit_code == 1
    assert not alone.rounding
    assert not whole(replace(spec, strict=True), runners=runners, dtypes=["float32", "bfloat16"]).rounding


@pytest.mark.slow
def test_training_on_digits_drifts_no_further_than_rounding_does():
    report = parity.run(
        mlp.SPEC, runners=["torch", "linen", "jax"], dtypes=["float32"], checks="trajectory", timeout=600
    )
    report.raise_for_status()
    assert {trained.runner for trained in report.trajectories} == {"torch", "linen", "jax"}
    for trained in report.trajectories:
        assert trained.steps[-1] == 200
        # The band is the largest of eight runs, so that a ninth one may be a little outside of it.
        assert trained.drift[-1] <= 2 * trained.band[-1]
        assert trained.drift[-1] > 0
