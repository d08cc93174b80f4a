"""The pytest plugin, in runs of pytest of its own: what it collects, what it says, and what it costs."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from eca_multi.parity import CHECKS, Case, Spec, Training
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.pytest.marks import TESTED, blocks, comparable

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow  # each test is a run of pytest of its own

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax")

# A layer in NumPy, whose workers start in half a second, with one defect or misfortune in each runner but the first.
LAYERS = """
import os, sys
import numpy as np
from eca_multi.parity import NumpyAdapter, Runner, Spec, Case

class Right(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"]

class Wrong(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["scale"] * np.float32(1.001)

class Crashing(NumpyAdapter):
    def build(self, config):
        print("last words", file=sys.stderr)
        os._exit(7)

class Raising(NumpyAdapter):
    def build(self, config):
        raise RuntimeError("the pool is empty")

class Unable(Right):
    unsupported = {"forward": "Scale has no forward here", "": "Scale has no forward here"}

ABSENT = Runner("absent", Right, requires=("no_such_package",), extra="absent")
SPEC = Spec(
    "Scale", "NC", weights={"scale": "C"}, reference=Right, cases=(Case("small"), Case("wide", config={"C": 40})),
    runners={
        "numpy": Right, "numpy-wrong": Wrong, "numpy-crashing": Crashing, "numpy-raising": Raising,
        "numpy-unable": Unable, "absent": ABSENT,
    },
)
"""

TEST = """
import pytest
{imports}

@pytest.mark.parity({arguments})
def test_scale(parity):
    parity()
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest in a process with this plugin and no other, whatever the environment has."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makepyfile(layers=LAYERS)
    options = ("-p", "eca_multi._pytest_plugin", "-p", "no:cacheprovider", "--strict-markers", "-W", "error")
    return lambda *arguments: pytester.runpytest_subprocess(*options, *arguments)


@pytest.fixture
def mark(pytester):
    """Write a test with a mark; SMALL stands for one case, dtype and check."""

    def write(arguments: str, imports: str = "from layers import SPEC", **files: str) -> None:
        small = "dtypes=['float32'], cases=['small'], checks=['forward']"
        pytester.syspathinsert()
        pytester.makepyfile(test_it=TEST.format(arguments=arguments.replace("SMALL", small), imports=imports), **files)

    return write


def ids(result) -> list[str]:
    return re.findall(r"^test_it\.py::test_scale\[(.*)\]$", result.stdout.str(), re.MULTILINE)


# --- what it costs those who do not use it --------------------------------------------------------------------------


def test_importing_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, pytest\n"
        "vars(pytest).pop('TerminalReporter', None)  # as in pytest 8, which has no such name\n"
        "import eca_multi._pytest_plugin\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*FRAMEWORKS, "sklearn", "scipy", "PIL", "ml_dtypes", "rich", "typer", "safetensors", "numpy"} & set(
        done.stdout.split()
    )


def test_a_run_without_the_mark_does_not_import_the_harness(run, pytester):
    pytester.makepyfile(test_it="import sys\n\ndef test_it():\n    assert 'eca_multi.parity' not in sys.modules")
    run().assert_outcomes(passed=1)


def test_a_missing_requirement_costs_only_the_marked_tests(run, mark, pytester):
    pytester.makeconftest(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'scipy' else find(name, *rest)"
    )
    mark("'eca'", "", test_other="def test_other(): pass")
    run("test_other.py").assert_outcomes(passed=1)
    result = run("test_it.py")
    assert 'pip install "eca-multi[parity]"' in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_another_projects_mark_and_fixture_are_left_alone(run, pytester):
    pytester.makeini("[pytest]\nmarkers = parity: of a disk")
    pytester.makepyfile(
        "import pytest\n\n@pytest.fixture\ndef parity():\n    return 1\n\n"
        "@pytest.mark.parity('odd')\ndef test_odd(parity):\n    assert parity == 1\n\n"
        "@pytest.mark.parity\ndef test_even(): pass"
    )
    run().assert_outcomes(passed=2)


def test_the_package_declares_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"eca-multi": "eca_multi._pytest_plugin"}


# --- collecting -----------------------------------------------------------------------------------------------------


def test_one_id_for_each_runner_case_dtype_and_check_and_nothing_started(run, mark, pytester):
    pytester.makeconftest(
        "import subprocess, sys\n"
        "def pytest_collection_finish(session):\n"
        f"    assert not set({FRAMEWORKS}) & set(sys.modules)\n"
        "class Popen:\n    def __init__(self, *rest, **more):\n        raise AssertionError('a process')\n"
        "subprocess.Popen = Popen"
    )
    mark("SPEC, ['numpy', 'absent'], dtypes=['float32', 'float16'], checks=['forward', 'compiled']")
    expected = product(("numpy", "absent"), ("small", "wide"), ("float32", "float16"), ("forward", "compiled"))
    assert ids(run("--collect-only", "-q")) == ["-".join(names) for names in expected]


def test_a_shipped_specification_is_collected_by_name_without_a_framework(run, mark, pytester):
    pytester.makeconftest(
        f"import sys\ndef pytest_collection_finish(session):\n    assert not set({FRAMEWORKS}) & set(sys.modules)"
    )
    mark("'eca', cases=['offsets'], dtypes=['float32']", "")
    found = ids(run("--collect-only", "-q"))
    assert "torch-offsets-float32-forward" in found
    assert "keras-jax-offsets-float32-compiled" in found
    assert "keras-torch-offsets-float32-compiled" not in found  # minutes: only by name


def test_options_restrict_what_the_marks_ask_for(run, mark):
    mark("SPEC")
    found = ids(run("--collect-only", "-q", "--parity-runners=numpy,absent", "--parity-checks=forward", "-k", "small"))
    dtypes = ("float32", "bfloat16", "float16")
    assert found == [f"{runner}-small-{dtype}-forward" for runner in ("numpy", "absent") for dtype in dtypes]
    assert ids(run("--collect-only", "-q", "--parity-dtypes=float16", "-k", "numpy-small and forward")) == [
        "numpy-small-float16-forward"
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--parity-runners=torhc", r"--parity-runners must be one of numpy, .*, absent. Received: 'torhc'"),
        ("--parity-dtypes=float64", r"--parity-dtypes must be one of float32, .*. Received: 'float64'"),
        ("--parity-checks=forwards", r"--parity-checks must be one of forward, .*. Received: 'forwards'"),
        ("--parity-require=nnx", r"--parity-require must be one of numpy, .*. Received: 'nnx'"),
        ("--parity-report=layers.py", r"--parity-report must be a folder to write to. Received: .*layers\.py"),
    ],
)
def test_a_wrong_option_is_a_usage_error(run, mark, option, message):
    mark("SPEC")
    result = run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(f"^ERROR: {message}", result.stderr.str(), re.MULTILINE)


WRONG_MARKS = {
    "case": ("'layers.py:SPEC', cases=['smal']", "case must be one of small, wide. Received: 'smal'"),
    "runner": ("'layers.py:SPEC', runners=['nnx']", "runner must be one of numpy,"),
    "spec": ("'ecaa'", "spec must be one of eca"),
    "file": ("'nowhere.py:SPEC'", "must name an existing file"),
    "object": ("7", "spec must be a Spec, one of eca"),
    "dtype": ("'eca', dtypes='float64'", "dtype must be one of float32"),
    "keyword": ("'eca', case='offsets'", "that takes spec, runners, dtypes, cases, checks alone. Received: case="),
    "nothing": ("'layers.py:SPEC', dtypes=['float32'], checks=['mixed']", "a mark must ask for what Scale compares"),
}


def test_a_wrong_mark_is_an_error_of_its_file_in_one_line(run, pytester):
    files = {f"test_{name}": TEST.format(arguments=wrong, imports="") for name, (wrong, _) in WRONG_MARKS.items()}
    pytester.makepyfile(**files)
    text = run().stdout.str()
    for name, (_, message) in WRONG_MARKS.items():
        assert re.search(rf"^(E +)?test_{name}\.py::test_scale has a parity mark .*{re.escape(message)}", text, re.M), (
            name
        )
    assert "Traceback" not in text


def test_a_marked_test_that_would_test_nothing_does_not_pass(run, pytester):
    head = (
        "import pytest\nfrom layers import SPEC\nONE = dict(runners=['numpy'], dtypes=['float32'], cases=['small'])\n"
    )
    pytester.makepyfile(
        test_no_fixture=f"{head}\n@pytest.mark.parity(SPEC)\ndef test_it(): pass",
        test_two_marks=f"{head}\n@pytest.mark.parity(SPEC)\n@pytest.mark.parity('eca')\ndef test_it(parity): parity()",
    )
    pytester.syspathinsert()
    text = run().stdout.str()
    assert "test_no_fixture.py::test_it must take the fixture `parity` and call it" in text
    assert "test_two_marks.py::test_it must have one parity mark" in text
    pytester.makepyfile(
        test_no_call=f"{head}\n@pytest.mark.parity(SPEC, checks=['forward'], **ONE)\ndef test_it(parity): pass",
        test_no_mark=f"{head}\ndef test_it(parity): parity()",
    )
    result = run("test_no_call.py", "test_no_mark.py")
    result.assert_outcomes(failed=1, errors=1)
    assert "must call it: parity()" in result.stdout.str()
    assert "need the mark @pytest.mark.parity(spec" in result.stdout.str()


# --- running --------------------------------------------------------------------------------------------------------


def test_a_right_layer_passes_and_reports_are_written(run, mark, pytester):
    mark("SPEC, ['numpy', 'absent'], SMALL")
    result = run("--parity-report=out/here", "--junit-xml=pytest.xml", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    text = result.stdout.str()
    row = r"numpy +(=|0\.\d\d small y).*1 of 1 tensors within budget"
    assert re.search(rf"= parity of Scale =.*\n{row}", text, re.DOTALL)
    assert 'absent: no_such_package not installed; pip install "eca-multi[absent]"' in text
    folder = pytester.path / "out/here"
    report = json.loads((folder / "Scale.json").read_text())
    assert [cell["runner"] for cell in report["results"]] == ["numpy"]
    assert [state["name"] for state in report["runners"]] == ["numpy", "absent"]
    assert report["spec"]["source"].endswith("test_it.py:SPEC")
    assert (folder / "Scale.html").read_text().startswith("<!doctype html>")
    assert "parity.Scale.numpy" in (folder / "Scale.xml").read_text()
    properties = dict(re.findall(r'<property name="(\w+)" value="(.*?)"', (pytester.path / "pytest.xml").read_text()))
    assert properties["verdict"] in ("BITWISE", "WITHIN_BUDGET")
    assert 0 <= float(properties["budget_use"]) <= 1


def test_a_wrong_layer_fails_with_the_evidence_and_how_to_repeat_it(run, mark):
    mark("SPEC, ['numpy-wrong'], SMALL")
    result = run()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    for line in (
        r"ParityError: numpy-wrong float32 small y: EXCEEDS_BUDGET, \S+ x the budget at \[\d+, \d+\]: expected",
        r"tensor +verdict +budget use +reach +worst index +expected +received",
        r"y +EXCEEDS_BUDGET +\S+ +\S+ +\[\d, \d+\] +-?\d\.\d+ +-?\d\.\d+",
        r"numpy-wrong float32 small: first divergence: y",
        r"again: eca-multi parity test_it.py:SPEC run --runner numpy-wrong --dtype float32 --case small --check forw",
        r"test_it\.py:\d+: ParityError",
    ):
        assert re.search(rf"^(E +\S*)?{line}", text, re.MULTILINE), line
    assert "_pytest_plugin" not in text  # the traceback ends at the test


def test_what_a_worker_suffers_is_told_and_costs_no_other_runner(run, mark):
    mark("SPEC, ['numpy-crashing', 'numpy-raising', 'numpy-unable', 'numpy'], SMALL")
    result = run("-rs")
    result.assert_outcomes(errors=1, failed=1, skipped=1, passed=1)
    text = result.stdout.str()
    assert re.search(r"^numpy-crashing crashed: exit status 7\n(.*\n)?last words", text, re.MULTILINE)
    assert "RuntimeError: the pool is empty" in text
    assert "numpy-unable forward: Scale has no forward here" in text


def test_a_reference_that_dies_is_an_error_with_its_last_words(run, mark):
    broken = "from dataclasses import replace\nimport layers\nSPEC = replace(layers.SPEC, reference=layers.Crashing)"
    mark("SPEC, ['numpy'], SMALL", broken)
    result = run()
    result.assert_outcomes(errors=1)
    assert re.search(r"^the reference crashed: exit status 7\nlast words", result.stdout.str(), re.MULTILINE)


def test_a_report_that_cannot_be_written_costs_neither_the_others_nor_the_summary(run, mark, pytester):
    mark("SPEC, ['numpy'], SMALL")
    (pytester.path / "out/Scale.html").mkdir(parents=True)
    result = run("--parity-report=out")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str()
    assert re.search(r"^--parity-report: .*out/Scale\.html could not be written: \[Errno 21\]", text, re.MULTILINE)
    assert "1 of 1 tensors within budget" in text
    assert json.loads((pytester.path / "out/Scale.json").read_text())["exit_code"] == 0
    assert "parity.Scale.numpy" in (pytester.path / "out/Scale.xml").read_text()


def test_a_reference_that_fails_is_an_error_in_one_line(run, mark):
    broken = "from dataclasses import replace\nimport layers\nSPEC = replace(layers.SPEC, reference=layers.Raising)"
    mark("SPEC, ['numpy'], SMALL", broken)
    result = run()
    result.assert_outcomes(errors=1)
    assert "the reference failed on case small: RuntimeError: the pool is empty" in result.stdout.str()


@pytest.mark.parametrize("required", ["absent", "all"])
def test_a_required_runner_that_is_missing_fails(run, mark, required):
    mark("SPEC, ['absent'], SMALL")
    result = run(f"--parity-require={required}")
    result.assert_outcomes(failed=1)
    assert "ParityError: absent: no_such_package not installed" in result.stdout.str()


RECORD = """
import json
from eca_multi import parity
original = parity.run
def run(spec, **options):
    with open("runs.jsonl", "a") as file:
        file.write(json.dumps(options) + "\\n")
    return original(spec, **options)
parity.run = run
"""


def runs(pytester) -> list[dict]:
    return [json.loads(line) for line in (pytester.path / "runs.jsonl").read_text().splitlines()]


def test_what_is_deselected_is_not_run_and_a_runner_runs_once(run, mark, pytester):
    pytester.makeconftest(RECORD)
    mark("SPEC, ['numpy', 'numpy-wrong', 'absent'], checks=['forward', 'determinism']")
    result = run("-k", "numpy-small and float32 or numpy-wide and float32")
    result.assert_outcomes(passed=4, deselected=14 + 18)
    (only,) = runs(pytester)
    assert only["runners"] == ["numpy"]
    assert only["dtypes"] == ["float32"]
    assert sorted(only["cases"]) == ["small", "wide"]
    assert sorted(only["checks"]) == ["determinism", "forward"]


@pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist, of the dev extra, is not installed")
def test_processes_of_xdist_share_each_run_and_one_report_comes_of_it(run, mark, pytester, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("scratch")))
    pytester.makeconftest(RECORD)
    mark("SPEC, ['numpy', 'numpy-wrong'], dtypes=['float32', 'float16'], checks=['forward', 'determinism']")
    result = run("-p", "xdist", "-n", "2", "--parity-report=out", "-m", "xdist_group")
    result.assert_outcomes(passed=12, failed=4)
    assert sorted(made["runners"] for made in runs(pytester)) == [["numpy"], ["numpy-wrong"]]
    report = json.loads((pytester.path / "out/Scale.json").read_text())
    places = [tuple(cell[key] for key in ("runner", "case", "dtype", "check", "tensor")) for cell in report["results"]]
    assert len(places) == len(set(places)) == 16
    assert sorted(path.name for path in (pytester.path / "out").iterdir()) == ["Scale.html", "Scale.json", "Scale.xml"]
    assert re.search(r"= parity of Scale =.*numpy-wrong +\d{4} ", result.stdout.str(), re.DOTALL)

    result = run("-p", "xdist", "-n", "2", "--parity-runners=torhc")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --parity-runners must be one of" in result.stderr.str()
    assert list((pytester.path / "scratch").glob("eca-*")) == []  # however a session ends


def test_files_are_found_beside_the_test(run, pytester):
    """Not in the working directory; and an adapter of the user's own is a runner as any other."""
    below = pytester.mkdir("below")
    (below / "mine.py").write_text(LAYERS)
    (below / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.parity('mine.py:SPEC', ['mine.py:Wrong'], 'float32', 'small', 'forward')\n"
        "def test_scale(parity, parity_case):\n    assert parity_case.runner == 'mine:Wrong'\n    parity()"
    )
    result = run("below")
    result.assert_outcomes(failed=1)
    command = "again: eca-multi parity below/mine.py:SPEC run --runner below/mine.py:Wrong --dtype float32"
    assert command in result.stdout.str()
    assert "test_scale[mine:Wrong-small-float32-forward]" in result.stdout.str()


def test_the_page_shows_what_runs(run, pytester):
    page = (ROOT / "docs/pytest.md").read_text()
    code = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL).group(1)
    pytester.makepyfile(test_it=code)
    run("-k", "torch and offsets and float32 and forward").assert_outcomes(passed=1)
    listed = set(re.findall(r"`(--parity-\w+)", page))
    assert listed == set(re.findall(r"(--parity-\w+)", run("--help").stdout.str()))


# --- which cells there are ------------------------------------------------------------------------------------------

FULL = Spec(
    "Full",
    "NC",
    weights={"w": "C"},
    taps=("hidden",),
    runners={"numpy": "nowhere:Nothing"},
    reference="nowhere:Nothing",
    cases=(
        Case("drawn", draw=lambda rng, config: {}),
        Case("plain"),
        Case("trained", config={"C": 5}),
    ),
    training=Training(steps=2, cases=("trained",)),
)
BARE = Spec("Bare", "NC", weights={}, runners={}, reference="nowhere:Nothing")


@pytest.mark.parametrize("spec", [FULL, BARE], ids=lambda spec: spec.name)
@pytest.mark.parametrize("chosen", [slice(0, 3), slice(0, 1), slice(1, 3)], ids=["all", "first", "rest"])
def test_tests_are_made_for_what_the_plan_compares(spec, chosen):
    cases = spec.cases[chosen]
    for check in TESTED:
        if check in ("input_grad", "weight_grad", "forward", "determinism"):
            continue  # one task gives all four
        planned = {
            (task.case.partition("+")[0], task.job.dtype, check)
            for task in tasks(spec, cases, list(DTYPES), [check])
            if task.check == check
        }
        assert comparable(spec, [case.name for case in cases], list(DTYPES), [check]) == planned, check
    assert set(TESTED) == set(CHECKS) - {"power"}


@pytest.mark.parametrize(
    ("products", "number"),
    [
        ([(("drawn", "plain", "trained"), DTYPES, TESTED)], 1),
        ([(("plain",), ("float32",), ("forward",)), (("trained",), ("float16",), ("trajectory",))], 2),
        ([(("drawn", "plain"), ("float32",), TESTED), (("trained",), ("float32",), ("forward",))], 2),
    ],
    ids=["a product", "two apart", "two sizes"],
)
def test_runs_are_few_and_compute_nothing_that_nobody_asked_for(products, number):
    wanted = set().union(*(comparable(FULL, *names) for names in products))
    found = blocks(FULL, wanted)
    assert set().union(*(comparable(FULL, *block) for block in found)) == wanted
    assert len(found) == number
