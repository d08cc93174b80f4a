"""The parity run: it passes what is right, and each defect put in makes it fail and name the runner."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eca_multi import parity, reference
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.dtypes import DTYPES, quantise
from eca_multi.parity.define.runners import find_runners
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.execute.tasks import base_job
from eca_multi.parity.judge.compare import Verdict, judge
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.parity.specs._images import photograph_features
from eca_multi.parity.specs.eca import CASES, SPEC
from tests.support.parity_runs import cli

MUTANTS = Path(__file__).parents[1].joinpath("support", "mutants.py")
BASE = ("--check", "forward,input_grad,weight_grad")
CASE = ("--case", "same-sign", *BASE)


def mutant(name: str) -> str:
    return f"{MUTANTS}:{name}"


def results_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["results"]


# --- what is right passes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runners_agree_and_report_says_so(tmp_path):
    file = tmp_path / "report.json"
    done = cli("--runner", "torch", "--runner", "jax", *BASE, "--json", file)
    assert done.exit_code == 0, done.output
    assert "All agree" in done.output
    results = results_of(file)
    # y; and dx and dw, and a residual's gradient, for two cotangents
    tensors = sum(5 + 2 * ("residual" in case.inputs) for case in CASES)
    assert len(results) == 2 * len(DTYPES) * tensors
    assert {r["verdict"] for r in results} <= {"BITWISE", "WITHIN_BUDGET"}
    assert all(0 <= r["budget_use"] <= 1 for r in results)


@pytest.mark.slow
def test_report_has_the_same_bytes_for_the_same_results():
    options = {"runners": ["torch"], "cases": ["offsets", "padded-sequences"], "checks": ["forward", "weight_grad"]}
    assert parity.run(**options).to_json() == parity.run(**options).to_json()


@pytest.mark.slow
def test_the_mutants_base_is_right():
    done = cli("--runner", mutant("Faithful"), *CASE)
    assert done.exit_code == 0, done.output


# --- what is wrong fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "tensors"),
    [
        ("FlippedKernel", "float32", {"y", "dx", "dw"}),
        pytest.param("ShiftedPadding", "float32", {"y", "dx", "dw"}, marks=pytest.mark.slow),
        pytest.param("DetachedGate", "float32", {"dx", "dw"}, marks=pytest.mark.slow),
        pytest.param("Float16Mean", "float16", {"y", "dx"}, marks=pytest.mark.slow),
        pytest.param("WrongAxis", "float32", {"y", "dx", "dw"}, marks=pytest.mark.slow),
        pytest.param("BatchLeak", "float32", {"y", "dx"}, marks=pytest.mark.slow),
    ],
)
def test_a_defect_exits_1_and_names_the_runner(name, dtype, tensors, tmp_path, no_closer_look):
    if name != "FlippedKernel":  # of the others, the verdict alone
        no_closer_look()
    file = tmp_path / "report.json"
    done = cli("--runner", mutant(name), "--dtype", dtype, *CASE, "--json", file)
    assert done.exit_code == 1, done.output
    assert f"FAIL mutants:{name} {dtype} same-sign" in done.output
    failing = {r["tensor"].removesuffix("@ones") for r in results_of(file) if r["verdict"] == "EXCEEDS_BUDGET"}
    assert failing == tensors


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("WrongShape", "SHAPE_MISMATCH"),
        ("WrongDtype", "DTYPE_MISMATCH"),
        ("NotFinite", "NONFINITE_MISMATCH"),
    ],
)
@pytest.mark.slow
def test_a_mismatch_has_its_verdict(name, verdict):
    done = cli("--runner", mutant(name), "--dtype", "float32", *CASE)
    assert done.exit_code == 1, done.output
    assert f"mutants:{name} float32 same-sign y: {verdict}" in done.output


@pytest.mark.slow
def test_a_defect_beside_a_right_runner_names_the_wrong_one(no_closer_look):
    no_closer_look()
    done = cli("--runner", "torch", "--runner", mutant("FlippedKernel"), "--dtype", "float32", *CASE)
    assert done.exit_code == 1
    assert "FAIL mutants:FlippedKernel" in done.output
    assert "FAIL torch" not in done.output


# --- workers that misbehave --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exception_is_exit_3_with_its_text():
    done = cli("--runner", mutant("Raising"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "RuntimeError: the pool is empty" in done.output


@pytest.mark.slow
def test_a_crash_is_exit_3_with_the_last_words_and_costs_only_its_own_cells():
    done = cli("--runner", mutant("Crashing"), "--runner", "torch", "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "exit status 7" in done.output
    assert "last words" in done.output
    assert "5 of 10 tensors within budget, 5 without a result, 1 of 2 runners ran" in done.output


@pytest.mark.slow
def test_silence_is_exit_3():
    done = cli("--runner", mutant("Hanging"), "--dtype", "float32", *CASE, "--timeout", "8")
    assert done.exit_code == 3
    assert "timed out" in done.output
    assert "said nothing for 8 s" in done.output


@pytest.mark.slow
def test_an_end_without_all_results_is_no_agreement():
    done = cli("--runner", mutant("ExitsZero"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3, done.output
    assert "exit status 0" in done.output


@pytest.mark.slow
def test_an_adapter_that_the_file_lacks_is_named_beside_those_it_has():
    done = cli("--runner", mutant("Flipped"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "mutants.py has no adapter 'Flipped'. It has: " in done.output
    assert "FlippedKernel" in done.output
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_nonsense_in_the_pipe_ends_the_worker():
    done = cli("--runner", mutant("WritesNonsense"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    assert "what is no answer" in done.output


@pytest.mark.slow
def test_the_children_of_a_crashed_worker_end_with_it():
    done = cli("--runner", mutant("LeavesAChild"), "--dtype", "float32", *CASE)
    assert done.exit_code == 3
    child = int(re.search(r"child (\d+)", done.output).group(1))
    assert not _is_alive(child)


@pytest.mark.slow
def test_a_disagreement_beats_a_crash(no_closer_look):
    no_closer_look()
    done = cli("--runner", mutant("Crashing"), "--runner", mutant("FlippedKernel"), "--dtype", "float32", *CASE)
    assert done.exit_code == 1


def _children(parent: int) -> list[int]:
    """The live processes that `parent` started, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _is_alive(process: int, seconds: float = 10) -> bool:
    """Whether a process is still there after a while; a zombie is not."""
    stat = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
@pytest.mark.slow
def test_the_workers_end_with_the_run(number, status):
    command = [sys.executable, "-m", "eca_multi", "parity", "--runner", mutant("Hanging"), "--dtype", "float32"]
    # A background job of a shell is started with Ctrl-C ignored, and so would be what it starts. Not by preexec_fn,
    # which would fork this process, threads of JAX and all.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", heed, *command], text=True, **pipes)
    deadline = time.monotonic() + 60
    while not (workers := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers, "no worker was started"
    time.sleep(3)  # into the job, which hangs
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    assert number == signal.SIGKILL or "Interrupted" in stderr
    assert not any(map(_is_alive, workers))


# --- what is not there, and wrong usage --------------------------------------------------------------------------


def test_the_python_api_checks_its_numbers():
    for wrong in ({"workers": 0}, {"workers": -1}, {"timeout": 0}):
        with pytest.raises(parity.UsageError, match="must be positive"):
            parity.run(runners=["torch"], **wrong)


@pytest.mark.slow
def test_a_switch_in_the_shell_does_not_make_a_compiled_runner_eager(monkeypatch):
    """It would be green without having compiled anything."""
    monkeypatch.setattr("eca_multi.parity.execute.process.FORCED_ENV", {})
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    done = cli("--runner", "torch", "--dtype", "float32", "--case", "one-channel", "--check", "compiled")
    assert done.exit_code == 3
    assert "compiled nothing and ran eagerly" in done.output


@pytest.mark.slow
def test_an_own_adapter_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("from eca_multi.parity.specs.eca import Torch")
    (tmp_path / "torch.py").write_text("from beside import Torch\n\nclass Mine(Torch): pass\n")
    done = cli("--runner", f"{tmp_path / 'torch.py'}:Mine", "--dtype", "float32", *CASE)
    assert done.exit_code == 0, done.output


@pytest.fixture
def without_jax(monkeypatch):
    """A machine without jax, as far as the parent can see."""
    from eca_multi.parity.define import runners

    found = runners.find_spec
    monkeypatch.setattr(runners, "find_spec", lambda name: None if name == "jax" else found(name))


@pytest.mark.slow
def test_a_missing_framework_is_listed_with_its_extra(without_jax):
    done = cli("--runner", "torch", "--runner", "jax", "--dtype", "float32", *CASE, "--require", "torch")
    assert done.exit_code == 0
    assert 'jax not installed; pip install "eca-multi[jax]"' in done.output


@pytest.mark.slow
def test_require_turns_a_missing_framework_into_a_failure(without_jax):
    done = cli("--runner", "torch", "--runner", "jax", "--dtype", "float32", *CASE, "--require", "torch,jax")
    assert done.exit_code == 1
    assert "required runner is missing" in done.output


def test_nothing_compared_is_exit_4(without_jax):
    done = cli("--runner", "jax")
    assert done.exit_code == 4
    assert "Nothing was compared" in done.output


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    done = cli("--runner", "torch", "--dtype", "float32", "--case", "one-channel", "--check", "forward,compiled")
    assert done.exit_code == 0, done.output
    assert "needs a C++ compiler" in done.output


def test_a_framework_that_the_specification_lacks_is_said():
    runners = {name: runner for name, runner in SPEC.runners.items() if not name.startswith("keras")}
    assert len(runners) < len(SPEC.runners)
    with pytest.raises(parity.UsageError, match=r"runner must be one of .*Received: 'keras'"):
        find_runners(replace(SPEC, runners=runners), ["keras", "torch"])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--runner", "torhc"], "runner must be one of"),
        (["--runner", "nowhere.py:Mine"], "must name an existing file"),
        (["--dtype", "float8"], "dtype must be one of"),
        (["--case", "nope"], "case must be one of"),
        (["--runner", "torch", "--require", "jax"], "required runner must be one of torch"),
        (["--json", "/no/such/folder/report.json"], "is not a file in an existing folder"),
        (["--timeout", "0"], "timeout"),
        (["--workers", "0"], "workers"),
        (["--runner", "torch,torch"], "each runner must be named once"),
        (["--check", "backward"], "check must be one of"),
        (["nowhere"], "spec must be one of"),
        (["nowhere.py"], "must name an existing file"),
        (["replay", "/no/such/bundle"], "must be a complete bundle"),
        (["report", "/no/such/report.json"], "No such file"),
        (["init", "mxnet"], "init knows torch"),
        (["compare", "/no/such/a", "/no/such/b"], "must be a complete .safetensors file"),
        (["--html", "/tmp"], "is not a file"),
        (["--json", "/tmp"], "is not a file"),
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


@pytest.mark.slow
def test_raise_for_status_names_runner_case_and_budget(no_closer_look):
    no_closer_look()
    report = parity.run(runners=[mutant("FlippedKernel")], dtypes=["float32"], cases=["offsets"], checks=["forward"])
    with pytest.raises(parity.ParityError, match=r"mutants:FlippedKernel float32 offsets y: EXCEEDS_BUDGET, .* budget"):
        report.raise_for_status()
    crashed = parity.run(runners=[mutant("Crashing")], dtypes=["float32"], cases=["offsets"], checks=["forward"])
    with pytest.raises(RuntimeError, match="mutants:Crashing: crashed"):
        crashed.raise_for_status()


# --- the oracle's budget and the data ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_the_exact_result_is_within_half_of_the_budget(case, dtype):
    """The best that any implementation can return must pass with room to spare."""
    for name, (expected, error) in solve(base_job(SPEC, case, draw(SPEC, case), dtype)).items():
        judgement = judge(Tensor(quantise(expected, dtype), dtype), expected, error, dtype, c=2.0)
        assert judgement.verdict is Verdict.BITWISE, name
        assert judgement.budget_use <= 0.5, name
        assert (error[np.isfinite(expected)] > 0).all()


def test_cases_are_the_same_at_each_call_and_cover_what_they_say():
    by_name = {case.name: draw(SPEC, case) for case in CASES}
    for case in CASES:
        again = draw(SPEC, case)
        assert all(np.array_equal(by_name[case.name].inputs[k], again.inputs[k], equal_nan=True) for k in again.inputs)
        assert np.array_equal(by_name[case.name].weights["w"], again.weights["w"])
    short = by_name["short-channels"]
    assert short.inputs["x"].shape[1] < short.weights["w"].shape[0]
    assert by_name["fp16-range"].inputs["x"].min() > 1e4
    assert not by_name["padded-sequences"].inputs["mask"][-1].any()
    saturated = by_name["saturated"]
    gate = reference.forward(saturated.inputs["x"], saturated.weights["w"]).gate
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
