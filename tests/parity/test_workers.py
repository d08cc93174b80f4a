"""Workers that die or hang, and interpreters of other environments."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eca_multi import parity
from eca_multi.parity import Case, Runner, Verdict
from tests.support.parity_runs import QUICK, quick
from tests.support.scale import SCALE, DiesInTheSecondCase, DiesLater, Marked, Off, Scale


@pytest.mark.slow
def test_a_worker_that_dies_keeps_the_cells_it_had():
    """Its first case was judged; the second, and nobody else's, is lost."""
    spec = replace(
        SCALE,
        runners={"numpy-dies": DiesInTheSecondCase, "numpy": Scale},
        cases=(Case("first"), Case("second")),
    )
    report = parity.run(spec, dtypes=["float32"], checks=["forward"])
    assert {(c.runner, c.case) for c in report.cells} == {
        ("numpy-dies", "first"),
        ("numpy", "first"),
        ("numpy", "second"),
    }
    [dead] = [state for state in report.runners if state.state == "crashed"]
    assert (dead.name, dead.detail) == ("numpy-dies", "exit status 9\nlast words")
    assert report.exit_code == 1


@pytest.mark.slow
def test_a_worker_that_dies_while_its_failure_is_localised_costs_nothing_else(tmp_path):
    spec = replace(SCALE, runners={"numpy-dies": DiesLater, "numpy-off": Off, "numpy": Scale})
    report = quick(spec, bundles=tmp_path / "bundles")
    assert {cell.runner: cell.verdict.green for cell in report.cells} == {
        "numpy-dies": False,
        "numpy-off": False,
        "numpy": True,
    }
    assert [(one.runner, one.culprit) for one in report.localisations] == [("numpy-dies", None), ("numpy-off", "y")]
    assert report.exit_code == 1
    # It has a bundle too: of the case as it was judged, where a worker that starts anew may say more.
    again = parity.replay(report.localisations[0].bundle, trust=True)
    assert {cell.verdict for cell in again.cells if cell.tensor == "y"} == {Verdict.EXCEEDS_BUDGET}


def test_a_failure_that_cannot_be_localised_says_so():
    report = quick(replace(SCALE, runners={"numpy-dies": DiesLater}))
    [one] = report.localisations
    assert one.line == (
        "numpy-dies float32 offsets: first divergence: not found, since it cannot be run again: "
        "the worker crashed: exit status 9"
    )


@pytest.fixture
def wrapper(tmp_path):
    """An interpreter of another environment, as far as a run can see: it sets a mark."""
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\nPARITY_TEST_MARK=1 exec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return str(file)


@pytest.mark.slow
def test_a_runner_may_have_an_interpreter_of_its_own(wrapper):
    runners = {"numpy-old": Runner("numpy-old", Marked, python=wrapper), "numpy": Marked}
    report = quick(replace(SCALE, runners=runners))
    assert {cell.runner: cell.green for cell in report.cells} == {"numpy-old": True, "numpy": False}


@pytest.mark.slow
def test_an_interpreter_that_is_not_there_is_a_reason():
    runners = {"numpy-old": Runner("numpy-old", Scale, python="/nowhere/python"), "numpy": Scale}
    report = quick(replace(SCALE, runners=runners))
    assert (report.runners[0].state, report.runners[0].detail) == (
        "unavailable",
        "/nowhere/python is not an interpreter",
    )
    assert report.exit_code == 0
    assert replace(report, required=("numpy-old",)).exit_code == 1


@pytest.mark.slow
def test_an_interpreter_that_is_something_else_costs_its_own_cells(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho I am no python >&2\nexit 4\n")
    other.chmod(0o755)
    report = quick(replace(SCALE, runners={"numpy-old": Runner("old", Scale, python=str(other)), "numpy": Scale}))
    assert (report.runners[0].state, report.runners[0].detail) == ("crashed", "exit status 4\nI am no python")
    assert [(cell.runner, cell.green) for cell in report.cells] == [("numpy", True)]


def test_an_interpreter_that_does_not_start_costs_its_own_cells(tmp_path):
    other = tmp_path / "python"
    other.write_text("no program")
    other.chmod(0o755)
    report = quick(replace(SCALE, runners={"numpy-old": Runner("old", Scale, python=str(other)), "numpy": Scale}))
    assert [(cell.runner, cell.green) for cell in report.cells] == [("numpy", True)]


@pytest.mark.slow
def test_a_replay_runs_in_the_interpreter_of_the_failure(tmp_path, wrapper):
    broken = tmp_path / "broken"
    broken.write_text(f'#!/bin/sh\nunset PARITY_TEST_MARK\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    report = quick(
        replace(SCALE, runners={"numpy-old": Runner("old", Marked, python=str(broken))}), bundles=tmp_path / "bundles"
    )
    os.environ["PARITY_TEST_MARK"] = "1"  # with which it passes here
    try:
        assert parity.replay(report.localisations[0].bundle, trust=True).exit_code == 1
    finally:
        del os.environ["PARITY_TEST_MARK"]


@pytest.mark.slow
def test_another_interpreter_is_lent_this_package_and_nothing_beside_it(tmp_path):
    """As when the package is installed: a framework beside it hides that of the other environment."""
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "eca_multi").symlink_to(Path(parity.__file__).parents[1])
    (site / "framework.py").write_text("VERSION = 1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "framework.py").write_text("VERSION = 2")
    python = tmp_path / "python"
    # The other environment: its own packages come last on the path, as site-packages do.
    start = f"import sys; sys.path.append({str(other)!r}); sys.argv[0] = 'worker'; "
    start += "import runpy; runpy.run_module('eca_multi.parity.execute.worker', run_name='__main__')"
    python.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} -P -c "{start}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "mine.py").write_text(
        f"""
from eca_multi.parity import NumpyAdapter, Runner, Spec

class Truth(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]

class Old(Truth):
    def build(self, config):
        import framework
        return lambda inputs, weights: inputs["x"] * weights["s"] * (framework.VERSION - 1)

SPEC = Spec("Scale", "N C", weights={{"s": "C"}}, runners={{"numpy": Runner("old", Old, python={str(python)!r})}},
            reference=Truth)
"""
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "eca_multi", "parity", tmp_path / "mine.py", *QUICK],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [1, 200_000],
    ids=["few requests", "more requests than a pipe holds"],
)
def test_a_worker_that_hangs_while_it_starts_is_timed_out(tmp_path, size):
    """ECA with all checks asks more than 64 KiB at once."""
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(40)")
    (tmp_path / "mine.py").write_text(
        f"""
from eca_multi.parity import NumpyAdapter, Spec

class Truth(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]

SPEC = Spec("Scale", "N C", weights={{"s": "C"}}, config={{"long": "x" * {size}}}, reference=Truth,
            runners={{"numpy-hangs": {f"{tmp_path}/hangs.py:Hangs"!r}, "numpy": Truth}})
"""
    )
    command = [sys.executable, "-m", "eca_multi", "parity", tmp_path / "mine.py", *QUICK, "--timeout", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=25)
        finally:
            process.terminate()  # and with it its workers
    assert process.returncode == 3
    assert "said nothing for 3 s" in output
