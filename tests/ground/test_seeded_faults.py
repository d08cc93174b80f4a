"""The list of seeded faults fits the package, and the runner tells what survives; `make mutants` runs them all."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.support import run_seeded_faults as runner
from tests.support.run_seeded_faults import BrokenFault, Fault

FAULTS = runner.read_faults()
ROOMS = {"layers", "weights", "surgery", "checkpoints", "budgets", "verdicts", "reports"}


def test_there_are_faults_in_every_room():
    assert {path.stem for path in runner.FOLDER.glob("*.toml")} == ROOMS
    assert len(FAULTS) >= 60


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_put_in_and_has_its_tests(fault):
    assert runner.faulty_text(fault) != (runner.ROOT / fault.file).read_text(encoding="utf-8")
    assert runner.missing_tests(fault) == []


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = """class Layer:
    def call(self, x):
        return x * 2

    def twice(self, x):
        return x * 2 + x * 2
"""
FAULT = Fault("doubled", "eca_multi/layer.py", "return x * 2\n", "return x * 3\n", ("tests/test_layer.py::test_it",))
TEST = "from eca_multi.layer import Layer\n\n\ndef test_it():\n    assert Layer().call(2) == 4\n"


@pytest.fixture
def project(tmp_path):
    """A package of two files and one test of it, as small as can be."""
    for folder, name, text in (
        ("eca_multi", "__init__.py", ""),
        ("eca_multi", "layer.py", GOOD),
        ("eca_multi", "other.py", "def other(y):\n    return y * 5\n"),
        ("tests", "test_layer.py", TEST),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "x * 2"}, r"must occur exactly once in eca_multi/layer.py. Received: it occurs 3 times"),
        ({"old": "x * 4"}, r"Received: it occurs 0 times. It stands nowhere in the package"),
        ({"old": "y * 5"}, r"Received: it occurs 0 times. It stands in eca_multi/other.py"),
        ({"file": "eca_multi/gone.py"}, r"Received: no such file. It stands in eca_multi/layer.py"),
        ({"new": "return (x\n"}, r"doubled: the new text must be Python. Received: .* was never closed"),
    ],
)
def test_a_fault_that_does_not_fit_says_so(project, change, message):
    with pytest.raises(BrokenFault, match=message):
        runner.faulty_text(replace(FAULT, **change), project)


def test_tests_that_are_gone_are_named(project):
    gone = replace(
        FAULT, tests=("tests/test_layer.py::test_it[a]", "tests/test_layer.py::test_that", "tests/test_x.py")
    )
    assert runner.missing_tests(gone, project) == list(gone.tests[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[fault]]\nname = "a"\nfile = "f"\nold = "x"\nnew = "y"\n', "a must have name, file, old, new and tests"),
        ('[[fault]]\nname = "a"\nfile = "f"\nold = "x"\nnew = "y"\ntests = []\nkey = 1\n', "a must have name, file"),
        (2 * '[[fault]]\nname = "a"\nfile = "f"\nold = "x"\nnew = "y"\ntests = []\n', "Received twice: a"),
    ],
    ids=["a key is missing", "a key too many", "a name twice"],
)
def test_an_entry_that_is_wrong_is_refused(tmp_path, text, message):
    (tmp_path / "room.toml").write_text(text)
    with pytest.raises(BrokenFault, match=message):
        runner.read_faults(tmp_path)


# --- what becomes of a fault -----------------------------------------------------------------------------------------

TRY = """
import sys
import pytest
from tests.support import run_seeded_faults as runner
from pathlib import Path
root = Path({root!r})
print("baseline", runner.check_baseline([runner.Fault("", "", "", "", ("tests/test_layer.py",))], root) == "")
for name, old, new in {edits!r}:
    fault = runner.Fault(name, "eca_multi/layer.py", old, new, ("tests/test_layer.py::test_it",))
    result = runner.try_fault(fault, root)
    print(name, result.state)
"""
EDITS = [
    ("right", "return x * 2\n", "return x + x\n"),  # the control: an edit that changes nothing survives
    ("wrong", "return x * 2\n", "return x * 3\n"),
    ("import", "class Layer:\n", "import no_such_package\n\nclass Layer:\n"),  # an ImportError kills nothing
    ("late-import", "return x * 2\n", "import no_such_package\n"),
    ("text", "not there", "x"),
]


def test_each_fault_has_its_state(project):
    """In a process of its own, since the runner forks one that has not imported the package."""
    code = TRY.format(root=str(project), edits=EDITS)
    # The package here has no plugin for pytest, which the installed one names.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.split("\n")[:-1] == [
        "baseline True",
        "right survived",
        "wrong killed",
        "import broken",
        "late-import broken",
        "text broken",
    ], done.stdout + done.stderr
