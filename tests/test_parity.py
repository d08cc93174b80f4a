"""The parity run: it passes what is right, and each defect put in makes it fail and name the runner."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from eca_multi import parity, reference
from eca_multi.cli import app
from eca_multi.parity.budget import DTYPES, oracle, quantise
from eca_multi.parity.cases import CASES
from eca_multi.parity.compare import Verdict, judge
from eca_multi.parity.images import photograph_features
from eca_multi.parity.jobs import Tensor

MUTANTS = Path(__file__).with_name("mutants.py")
CASE = ("--case", "same-sign")


def cli(*args: str):
    return CliRunner().invoke(app, ["parity", *map(str, args)], env={"COLUMNS": "200"})


def mutant(name: str) -> str:
    return f"{MUTANTS}:{name}"


def results_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["results"]


# --- what is right passes ----------------------------------------------------------------------------------------


def test_runners_agree_and_report_says_so(tmp_path):
    file = tmp_path / "report.json"
    done = cli("--runner", "torch", "--runner", "jax", "--json", file)
    assert done.exit_code == 0, done.output
    assert "All agree" in done.output
    results = results_of(file)
    assert len(results) == 2 * len(DTYPES) * len(CASES) * 3
    assert {r["verdict"] for r in results} <= {"BITWISE", "WITHIN_BUDGET"}
    assert all(0 <= r["budget_use"] <= 1 for r in results)


def test_report_has_the_same_bytes_for_the_same_results():
    options = {"runners": ["torch"], "cases": ["offsets", "padded-sequences"]}
    assert parity.run(**options).to_json() == parity.run(**options).to_json()


def test_the_mutants_base_is_right():
    done = cli("--runner", mutant("Faithful"), *CASE)
    assert done.exit_code == 0, done.output


# --- what is wrong fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "tensors"),
    [
        ("FlippedKernel", "float32", {"y", "dx", "dw"}),
        ("ShiftedPadding", "float32", {"y", "dx", "dw"}),
        ("DetachedGate", "float32", {"dx", "dw"}),
        ("Float16Mean", "float16", {"y", "dx", "dw"}),
        ("WrongAxis", "float32", {"y", "dx", "dw"}),
        ("BatchLeak", "float32", {"y", "dx", "dw"}),
    ],
)
def test_a_defect_exits_1_and_names_the_runner(name, dtype, tensors, tmp_path):
    file = tmp_path / "report.json"
    done = cli("--runner", mutant(name), "--dtype", dtype, *CASE, "--json", file)
    assert done.exit_code == 1, done.output
    assert f"FAIL mutants:{name} {dtype} same-sign" in done.output
    wrong = {r["tensor"] for r in results_of(file) if r["verdict"] == "EXCEEDS_BUDGET"}
    assert wrong <= tensors
    assert wrong


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("WrongShape", "SHAPE_MISMATCH"),
        ("WrongDtype", "DTYPE_MISMATCH"),
        ("NotFinite", "NONFINITE_MISMATCH"),
    ],
)
def test_a_mismatch_has_its_verdict(name, verdict):
    done = cli("--runner", mutant(name), "--dtype", "float32", *CASE)
    assert done.exit_code == 1, done.output
    assert f"mutants:{name} float32 same-sign y: {verdict}" in done.output


def test_a_defect_beside_a_right_runner_names_the_wrong_one():
    done = cli("--runner", "torch", "--runner", mutant("FlippedKernel"), "--dtype", "float32", *CASE)
    assert done.exit_code == 1
    assert "FAIL mutants:FlippedKernel" in done.output
    assert "FAIL torch" not in done.output


# --- workers that misbehave --------------------------------------------------------------------------------------


def test_an_exception_is_exit_3_with_its_text():
    done = cli("--runner", mutant("Raising"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "RuntimeError: the pool is empty" in done.output


def test_a_crash_is_exit_3_with_the_last_words_and_costs_only_its_own_cells():
    done = cli("--runner", mutant("Crashing"), "--runner", "torch", "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "exit status 7" in done.output
    assert "last words" in done.output
    assert "3 of 3 tensors within budget, 1 of 2 runners ran" in done.output


def test_silence_is_exit_3():
    done = cli("--runner", mutant("Hanging"), "--dtype", "float32", *CASE, "--timeout", "8")
    assert done.exit_code == 3
    assert "timed out" in done.output
    assert "said nothing for 8 s" in done.output


def test_a_disagreement_beats_a_crash():
    done = cli("--runner", mutant("Crashing"), "--runner", mutant("FlippedKernel"), "--dtype", "float32", *CASE)
    assert done.exit_code == 1


def _processes_in(session: int) -> list[int]:
    """The live processes whose parent is `session`, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_ctrl_c_ends_the_workers():
    command = [sys.executable, "-m", "eca_multi", "parity", "--runner", mutant("Hanging"), "--dtype", "float32"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not (workers := _processes_in(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers, "no worker was started"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in stderr
    for worker in workers:
        with pytest.raises(ProcessLookupError, match="No such process"):
            os.kill(worker, 0)


# --- what is not there, and wrong usage --------------------------------------------------------------------------


@pytest.fixture
def without_jax(monkeypatch):
    """A machine without jax, as far as the parent can see."""
    from eca_multi.parity import runners

    found = runners.find_spec
    monkeypatch.setattr(runners, "find_spec", lambda name: None if name == "jax" else found(name))


def test_a_missing_framework_is_listed_with_its_extra(without_jax):
    done = cli("--runner", "torch", "--runner", "jax", "--dtype", "float32", *CASE)
    assert done.exit_code == 0
    assert 'jax not installed; pip install "eca-multi[jax]"' in done.output


def test_require_turns_a_missing_framework_into_a_failure(without_jax):
    args = ("--runner", "torch", "--runner", "jax", "--dtype", "float32", *CASE)
    assert cli(*args, "--require", "torch").exit_code == 0
    done = cli(*args, "--require", "torch,jax")
    assert done.exit_code == 1
    assert "required runner is missing" in done.output


def test_nothing_compared_is_exit_4(without_jax):
    done = cli("--runner", "jax")
    assert done.exit_code == 4
    assert "Nothing was compared" in done.output


def test_a_machine_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setattr("eca_multi.parity.runners.shutil.which", lambda name: None)
    done = cli("--runner", "torch-compiled")
    assert done.exit_code == 4
    assert "needs a C++ compiler" in done.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--runner", "torhc"], "runner must be one of"),
        (["--runner", "nowhere.py:Mine"], "must name an existing file"),
        (["--dtype", "float8"], "dtype must be one of"),
        (["--case", "nope"], "case must be one of"),
        (["--runner", "torch", "--require", "jax"], "required runner must be one of torch"),
        (["--json", "/no/such/folder/report.json"], "is not a folder"),
        (["--timeout", "0"], "timeout"),
    ],
)
def test_wrong_usage_is_exit_2(args, text):
    done = cli(*args)
    assert done.exit_code == 2
    assert text in " ".join(done.output.replace("│", " ").split())


# --- the verdict -------------------------------------------------------------------------------------------------

ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("values", "reference_values", "verdict"),
    [
        (ONES, ONES, Verdict.BITWISE),
        (ONES + 0.99e-3, ONES, Verdict.WITHIN_BUDGET),
        (ONES + 1.01e-3, ONES, Verdict.EXCEEDS_BUDGET),
        (ONES * np.nan, ONES, Verdict.NONFINITE_MISMATCH),
        (ONES, ONES * np.nan, Verdict.NONFINITE_MISMATCH),
        (ONES * np.nan, ONES * np.nan, Verdict.BITWISE),
        (ONES * np.inf, -ONES * np.inf, Verdict.NONFINITE_MISMATCH),
        (ONES * np.inf, ONES * 1e39, Verdict.BITWISE),  # the true value is beyond float32
        (ONES[:1], ONES, Verdict.SHAPE_MISMATCH),
    ],
)
def test_verdicts(values, reference_values, verdict):
    actual = Tensor(np.asarray(values, np.float32), "float32")
    budget = np.full(reference_values.shape, 1e-3)
    assert judge(actual, reference_values, budget, "float32").verdict is verdict


def test_the_worst_element_is_named():
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = 5
    judgement = judge(Tensor(values, "float32"), np.zeros((2, 3)), np.ones((2, 3)), "float32")
    assert (judgement.index, judgement.budget_use) == ((1, 2), 5.0)
    assert (judgement.expected, judgement.received) == ("0", "5")


def test_raise_for_status_names_runner_case_and_budget():
    report = parity.run(runners=[mutant("FlippedKernel")], dtypes=["float32"], cases=["offsets"])
    with pytest.raises(parity.ParityError, match=r"mutants:FlippedKernel float32 offsets y: EXCEEDS_BUDGET, .* budget"):
        report.raise_for_status()
    crashed = parity.run(runners=[mutant("Crashing")], dtypes=["float32"], cases=["offsets"])
    with pytest.raises(RuntimeError, match="mutants:Crashing: crashed"):
        crashed.raise_for_status()


# --- the oracle's budget and the data ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_the_exact_result_is_within_half_of_the_budget(case, dtype):
    """The best that any implementation can return must pass with room to spare."""
    arrays = {k: v if v.dtype == bool else quantise(v, dtype) for k, v in case.arrays().items()}
    for expected, budget in oracle(arrays, case.options, dtype).values():
        best = Tensor(quantise(expected, dtype), dtype)
        judgement = judge(best, expected, budget, dtype)
        assert judgement.verdict is Verdict.BITWISE
        assert judgement.budget_use <= 0.5
        assert (budget > 0).all()


def test_cases_are_the_same_at_each_call_and_cover_what_they_say():
    by_name = {case.name: case.arrays() for case in CASES}
    for case in CASES:
        again = case.arrays()
        assert all(np.array_equal(by_name[case.name][k], again[k]) for k in again)
        w = again["weight"]
        assert w.shape[-1] == 1 or not np.allclose(w, w[..., ::-1])  # a palindrome would hide a flip
    assert by_name["short-channels"]["x"].shape[1] < by_name["short-channels"]["weight"].shape[0]
    assert by_name["fp16-range"]["x"].min() > 1e4
    assert not by_name["padded-sequences"]["mask"][-1].any()
    gate = reference.forward(by_name["saturated"]["x"], by_name["saturated"]["weight"]).gate
    assert gate.min() < 1e-3
    assert gate.max() > 1 - 1e-3


def test_photographs_are_block_dct_coefficients():
    from sklearn.datasets import load_sample_images

    maps = photograph_features()
    assert maps.shape == (2, 192, 53, 80)
    pixels = load_sample_images().images[1][8:16, 16:24, 2] / 255.0  # second photograph, block (1, 2), blue
    np.testing.assert_allclose(maps[1, 2 * 64, 1, 2], pixels.mean() * 8, rtol=1e-12)
    energy = (maps[1, 2 * 64 : 3 * 64, 1, 2] ** 2).sum()
    np.testing.assert_allclose(energy, (pixels**2).sum(), rtol=1e-12)  # the transform is orthonormal
