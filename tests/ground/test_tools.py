"""The tools around the tests say one thing: what pre-commit runs, and how the tests are imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def parts_of_check(makefile: str) -> list[str]:
    """The targets that `make check` runs."""
    return re.search(r"^check: ([a-z ]+?) *##", makefile, re.MULTILINE)[1].split()


def test_pre_commit_runs_what_make_check_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert entries == [f"make {part}" for part in parts_of_check((ROOT / "Makefile").read_text(encoding="utf-8"))]


def test_a_part_more_is_seen():
    assert parts_of_check("check: lint types spelling  ## all\n") == ["lint", "types", "spelling"]


@pytest.mark.slow
@pytest.mark.parametrize("start", [["-m", "pytest"], ["-P", "-c", "import pytest, sys; sys.exit(pytest.main())"]])
def test_helpers_are_found_by_each_way_of_starting_pytest(start):
    """`python -m pytest` puts the working directory on the path; the command `pytest` does not."""
    arguments = ["--noconftest", "--collect-only", "-q", "tests/ground/test_seeded_faults.py"]
    done = subprocess.run([sys.executable, *start, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_of_tests_says_what_it_holds():
    folders = [path for path in (ROOT / "tests").rglob("*") if path.is_dir() and list(path.glob("*.py"))]
    assert len(folders) > 8
    for folder in folders:
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""'), folder


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_no_folder_hides_a_framework(folder):
    names = {path.name for path in (ROOT / folder).rglob("*") if path.is_dir()}
    assert not names & {"torch", "tensorflow", "keras", "jax", "flax", "numpy"}
