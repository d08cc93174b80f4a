"""Which stage is named as the first that diverges: by what each stage adds, and not by what arrives at it."""

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.explain.bundle import read_bundle
from eca_multi.parity.explain.localize import Stage, culprit, say
from eca_multi.parity.judge.compare import Judgement, Verdict
from tests.support.parity_runs import MUTANTS, exceeding

RIGHT, WRONG = Judgement(Verdict.WITHIN_BUDGET, 0.5), Judgement(Verdict.EXCEEDS_BUDGET, 30.0)
SHAPE, NAN = Judgement(Verdict.SHAPE_MISMATCH), Judgement(Verdict.NONFINITE_MISMATCH)
MISSING = Judgement(Verdict.MISSING_TAP)


def chain(**stages):
    """Stages by name, each as (as it came, in isolation)."""
    return [Stage(Quantity(Kind.TAP, name), *judgements) for name, judgements in stages.items()]


CHAINS = {
    # Errors that add up make the second stage fail as it came; the third adds the fault.
    "accumulated": (chain(pooled=(RIGHT, RIGHT), conv=(WRONG, RIGHT), gate=(WRONG, WRONG)), "gate"),
    "first": (chain(pooled=(WRONG, WRONG), conv=(WRONG, RIGHT), gate=(WRONG, RIGHT)), "pooled"),
    # A later stage may hide what an earlier one added: two faults that undo each other.
    "hidden": (chain(pooled=(RIGHT, RIGHT), conv=(RIGHT, WRONG), gate=(RIGHT, WRONG)), "conv"),
    "carried": (chain(pooled=(RIGHT, RIGHT), conv=(WRONG, RIGHT), gate=(WRONG, RIGHT)), None),
    "shape": (chain(pooled=(RIGHT, RIGHT), conv=(SHAPE, SHAPE)), "conv"),
    "not-finite": (chain(pooled=(RIGHT, RIGHT), conv=(NAN, NAN)), "conv"),
    "no-tap": (chain(pooled=(MISSING, MISSING), conv=(WRONG, WRONG)), "conv"),
    "right": (chain(pooled=(RIGHT, RIGHT), conv=(RIGHT, RIGHT)), None),
}


@pytest.mark.parametrize(("stages", "name"), CHAINS.values(), ids=CHAINS)
def test_the_culprit_is_the_first_stage_that_fails_in_isolation(stages, name):
    found = culprit(stages)
    assert (found.quantity.name if found else None) == name
    line = say(stages, "")
    assert (f"first divergence: {name} (" in line) == (name is not None)


def test_an_error_that_only_accumulates_is_said():
    stages, _ = CHAINS["carried"]
    assert say(stages, "") == "first divergence: conv, but no stage fails alone: the error accumulates"
    assert say(CHAINS["right"][0], "").startswith("first divergence: none when it is run again")
    assert say(CHAINS["no-tap"][0], "").endswith("upstream clean (no tap pooled)")


# --- the mutants of ECA, run and localised --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The mutants of ECA in one run, with bundles."""
    names = ("FlippedKernel", "Float16Mean", "DetachedGate", "BatchLeak", "Untapped")
    return parity.run(
        runners=[f"{MUTANTS}:{name}" for name in names],
        dtypes=["float32", "float16"],
        cases=["same-sign"],
        checks=["forward", "input_grad", "weight_grad"],
        bundles=tmp_path_factory.mktemp("found") / "bundles",
    )


def where(report, name, dtype):
    [one] = [f for f in report.localisations if (f.runner, f.dtype) == (f"mutants:{name}", dtype)]
    return one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "culprit"),
    [
        ("FlippedKernel", "float32", "conv"),
        ("Float16Mean", "float16", "pooled"),
        ("DetachedGate", "float32", "d_conv"),
        ("BatchLeak", "float32", "pooled"),
    ],
)
def test_the_first_divergence_is_the_stage_with_the_defect(found, name, dtype, culprit):
    one = where(found, name, dtype)
    assert one.culprit == culprit
    assert f"mutants:{name} {dtype} same-sign: first divergence: {culprit} (isolated " in one.line
    assert "x the budget), upstream clean" in one.line


@pytest.mark.slow
def test_what_follows_the_culprit_only_carries_it_on(found):
    """As it came, all after it is wrong; in isolation, the culprit alone."""
    chain = {stage["tap"]: stage for stage in where(found, "FlippedKernel", "float32").chain}
    assert chain["pooled"]["propagated"] <= 1
    assert chain["conv"]["isolated"] > 1
    for later in ("gate", "y"):
        assert chain[later]["propagated"] > 1
        assert chain[later]["isolated"] <= 1


@pytest.mark.slow
def test_the_chain_is_in_the_order_of_the_computation(found):
    stages = [stage["tap"] for stage in where(found, "FlippedKernel", "float32").chain]
    assert stages == ["pooled", "conv", "gate", "y", "d_gate", "d_conv", "d_pooled", "dw", "dx"]


@pytest.mark.slow
def test_the_layers_own_reference_is_numpy_and_its_pytorch_runner_stands_in(found):
    one = where(found, "FlippedKernel", "float32")
    assert one.cause.startswith("matches the reference if kernel is reversed (")
    assert where(found, "DetachedGate", "float32").cause.startswith("matches the reference if a gate is detached")
    assert where(found, "BatchLeak", "float32").cause == ""  # no hypothesis describes the fault


@pytest.mark.slow
def test_a_tap_that_is_missing_is_named_beside_the_culprit(found):
    one = where(found, "Untapped", "float32")
    assert one.culprit == "conv"
    assert "(no tap gate, d_gate)" in one.line
    missing = {stage["tap"] for stage in one.chain if stage["verdict"] == "MISSING_TAP"}
    assert missing == {"gate", "d_gate"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FlippedKernel", "Float16Mean", "DetachedGate"])
def test_the_case_is_shrunk_and_what_is_left_still_fails(found, name):
    one = min((f for f in found.localisations if f.runner == f"mutants:{name}"), key=lambda f: f.dtype)
    full = {"N": 2, "C": 20, "H": 53, "W": 61}
    assert set(one.shrunk) == set(full)
    assert all(one.shrunk[axis] <= size for axis, size in full.items())
    assert np.prod(list(one.shrunk.values())) < np.prod(list(full.values())) / 8
    job = read_bundle(one.bundle).job
    assert job.inputs["x"].shape == tuple(one.shrunk[axis] for axis in "NCHW")
    assert "y" in exceeding(one.bundle) or {"dx", "dw"} & exceeding(one.bundle)


@pytest.mark.slow
def test_the_same_verdict_is_in_the_text_of_the_error(found):
    with pytest.raises(parity.ParityError, match=r"FlippedKernel float32 same-sign: first divergence: conv"):
        found.raise_for_status()
