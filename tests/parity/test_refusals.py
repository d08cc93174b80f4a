"""Specifications, adapters, references and names that cannot be right: one clear line each."""

import re
import subprocess
import sys
from dataclasses import replace
from threading import Lock

import numpy as np
import pytest

from eca_multi.parity import KerasAdapter, Runner, SpecError, UsageError
from eca_multi.parity.define.runners import FRAMEWORKS, runners_of
from tests.support.parity_runs import MUTANTS, QUICK, cli, here, quick, text_of
from tests.support.scale import RIGHT, SCALE, Off, Scale

LOCK = Lock()  # cannot be sent to a worker


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nowhere_at_all", "must import. It raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def", "must import. It raised SyntaxError: "),
        ("1 / 0", "must import. It raised ZeroDivisionError: division by zero"),
        ("SPEC = 3", "must hold one Spec, or say which"),
        ("from importlib.util import *", "must hold one Spec"),
    ],
    ids=["import", "syntax", "error", "no Spec", "no Spec of its own"],
)
def test_a_file_that_is_no_specification_is_one_line_and_exit_2(tmp_path, content, message):
    file = tmp_path / "mine.py"
    file.write_text(content)
    done = cli(file, *QUICK)
    assert done.exit_code == 2, done.output
    assert "mine.py must" in text_of(done)
    assert message in text_of(done)
    assert "Traceback" not in done.output


def test_a_file_that_exits_is_no_disagreement(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import sys\nsys.exit(1)")
    assert cli(file, *QUICK).exit_code == 2


@pytest.mark.parametrize("status", [0, 1])
def test_data_that_exit_are_no_verdict(tmp_path, status):
    """Case.draw runs in the harness's own process."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import sys\n"
        "from eca_multi.parity import Case, Spec\n"
        "from tests.support.scale import Scale, Truth\n"
        f"cases = (Case('offsets', draw=lambda rng, config: sys.exit({status})),)\n"
        "SPEC = Spec('exits', 'N C', {'s': 'C'}, {'numpy': Scale}, Truth, inputs={'x': 'N C'}, "
        "outputs={'y': 'N C'}, cases=cases)\n"
    )
    done = cli(file, *QUICK)
    assert done.exit_code == 3, done.output
    assert f"ended it, by SystemExit: {status}" in text_of(done)


@pytest.fixture(scope="module")
def faulty():
    return cli(here("FAULTY"), *QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        r"crashed numpy-a: exit status 1 .*NoBuild must have build\(config\), which returns the layer\. It has none\.",
        "FAIL numpy-b float32 offsets y: ERROR: the weight map of Leftover must use every weight and state",
        "FAIL numpy-c float32 offsets y: ERROR: 's' of NoPermutation: a rearrangement must be a permutation",
    ],
    ids=["no build", "a leftover", "no permutation"],
)
def test_an_adapter_that_cannot_be_right_costs_its_own_cells_with_the_reason(faulty, message):
    assert faulty.exit_code == 3
    assert "1 of 4 tensors within budget, 3 without a result" in text_of(faulty)
    assert "Traceback" not in faulty.output
    assert re.search(message, text_of(faulty)), faulty.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoBuild", "NoBuild must have build(config), which returns the layer. It has none."),
        ("Leftover", "the weight map of Leftover must name every parameter and buffer. Received: no 'conv.weight'."),
        ("NoPermutation", "'conv.weight' of NoPermutation: a rearrangement must be a permutation"),
    ],
)
def test_an_adapter_of_torch_that_cannot_be_right_is_exit_3(name, message):
    done = cli("--runner", f"{MUTANTS}:{name}", *QUICK)
    assert done.exit_code == 3
    assert message in text_of(done)
    assert "Traceback" not in done.output


def test_a_reference_that_is_nan_is_exit_2_with_the_place():
    done = cli(here("NAN"), *QUICK)
    assert done.exit_code == 2
    message = r"must be finite for finite inputs\. Received: y of case offsets in float32 is nan at \[\d, \d+\]"
    assert re.search(message, text_of(done))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            lambda inputs, weights: inputs["x"] if LOCK else None,
            "reference must be at the top level of a file, or hold",
        ),
        ("torch", "reference must be one of the runners numpy"),
        (here("Nowhere"), "the reference crashed: .*has no adapter 'Nowhere'. It has: "),
        (here("FIELDS"), "the reference crashed: .* must be an adapter"),
        (KerasAdapter, "the reference crashed: .* must have build"),
    ],
    ids=["a lambda with a lock", "an unknown runner", "an unknown name", "no adapter", "no build"],
)
def test_a_reference_that_cannot_be_right_is_a_specs_error(reference, message):
    with pytest.raises(SpecError, match=message):
        quick(replace(RIGHT, reference=reference))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runners": ["numpi"]}, "runner must be one of numpy, numpy-off, or file.py:Adapter. Received: 'numpi'"),
        ({"runners": ["numpy", "numpy"]}, "each runner must be named once"),
        ({"cases": ["none"]}, "case must be one of offsets"),
        ({"checks": ["forwards"]}, "check must be one of forward"),
        ({"require": ["torch"]}, "required runner must be one of numpy, numpy-off. Received: 'torch'"),
    ],
    ids=["runner", "runner twice", "case", "check", "require"],
)
def test_a_name_that_is_unknown_is_refused_before_anything_runs(options, message):
    with pytest.raises(UsageError, match=message):
        quick(SCALE, **options)


def test_a_name_alone_is_a_list_of_one():
    """And not one of its letters."""
    report = quick(SCALE, runners="numpy", dtypes="float32", cases="offsets", checks="forward", require="numpy")
    assert [cell.runner for cell in report.cells] == list(report.required) == ["numpy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runners": {"numpy": LOCK}}, r"runner 'numpy' must be an adapter, or \"file"),
        ({"config": {"eps": np.float32(1e-5)}}, "config"),
        ({"config": {"function": abs}}, "config"),
        ({"runners": {"reference": Off, "numpy": Scale}}, "reference"),
        ({"runners": {"mutants": Off, "numpy": Scale}}, "mutants"),
    ],
    ids=["no adapter", "a NumPy number", "a function", "a runner called reference", "a runner called mutants"],
)
def test_a_specification_that_no_worker_can_be_given_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        quick(replace(RIGHT, **changes)).raise_for_status()


def test_a_runner_of_ones_own_keeps_the_backend_of_its_name():
    runners = runners_of(replace(SCALE, runners={"keras": Runner("keras", KerasAdapter, env={"A": "1"})}))
    assert [runner.env for runner in runners] == [
        {"A": "1", "KERAS_BACKEND": backend} for backend in ("tensorflow", "jax", "torch")
    ]
    for runner, known in zip(runners, FRAMEWORKS[1:4], strict=True):
        assert (runner.requires, runner.extra, runner.slow) == (known.requires, known.extra, known.slow)
    [own] = runners_of(replace(SCALE, runners={"keras-jax": Runner("mine", KerasAdapter, ("keras", "jax", "mine"))}))
    assert own.requires == ("keras", "jax", "mine")


GUARDLESS = """
import os
from pathlib import Path
depth = int(os.environ.get("PARITY_TEST_DEPTH", 0))
os.environ["PARITY_TEST_DEPTH"] = str(depth + 1)
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write(f"{depth}\\n")
if depth > 1:
    raise SystemExit("the workers of workers")
from eca_multi import parity

class Adapter(parity.NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]

SPEC = parity.Spec("Scale", "N C", weights={"s": "C"}, runners={"numpy": Adapter}, reference=Adapter)
parity.run(SPEC, dtypes=["float32"], cases=["offsets"], checks=["forward"]).raise_for_status()
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_starts_no_workers_of_workers(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(GUARDLESS)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False, timeout=120)
    assert 'Put the call under `if __name__ == "__main__":`.' in done.stderr.splitlines()[-1]
    assert set(file.with_suffix(".log").read_text().split()) <= {"0", "1"}
