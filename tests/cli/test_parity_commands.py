"""The commands of `eca-multi parity`: run, list, doctor, fingerprint, report and init."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from eca_multi import parity
from tests.support.parity_runs import QUICK, cli, here, text_of
from tests.support.scale import RIGHT


@pytest.fixture
def asked(monkeypatch):
    """What `run` was asked for; nothing runs."""
    calls = []

    def run(spec, **options):
        calls.append((spec, {name: value for name, value in options.items() if value}))
        return parity.Report([], environment=dict.fromkeys(("python", "platform", "processor"), ""))

    monkeypatch.setattr(parity, "run", run)
    return calls


@pytest.mark.parametrize(
    ("args", "spec"),
    [
        (("run", "mine.py"), "mine.py"),
        (("mine.py", "run"), "mine.py"),
        (("mine.py",), "mine.py"),
        ((), "eca"),
    ],
    ids=["command first", "specification first", "no command", "options alone"],
)
def test_specification_and_command_come_in_either_order(asked, args, spec):
    done = cli(*args, "--dtype", "float32", "--case", "offsets,large-map", "--runner", "torch", "--runner", "jax")
    assert done.exit_code == 4, done.output
    [(received, options)] = asked
    assert received == spec
    del options["progress"], options["timeout"], options["optimizer"]
    assert options == {"dtypes": ["float32"], "cases": ["offsets", "large-map"], "runners": ["torch", "jax"]}


def test_nothing_at_all_runs_eca(asked):
    cli()
    assert [spec for spec, _ in asked] == ["eca"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((here("SCALE"), "--runner", "numpy", *QUICK), 0),
        ((here("SCALE"), "--dtype", "float8"), 2),
        ((here("RIGHT"), *QUICK[:4], "--check", "input_grad"), 4),
    ],
    ids=["all agree", "wrong usage", "nothing compared"],
)
def test_exit_codes(args, code):
    """1 and 3 are seen all over this file."""
    assert cli(*args).exit_code == code


@pytest.mark.parametrize("order", ["list first", "specification first"])
def test_list_names_what_there_is(order):
    args = ("list", here("SCALE"))
    done = cli(*(args if order == "list first" else args[::-1]))
    assert done.exit_code == 0
    for word in ("spec eca", "runner numpy-off", "case offsets", "check forward", "dtype bfloat16"):
        assert word in text_of(done)


def test_list_of_a_specification_that_is_none_is_exit_2(tmp_path):
    done = cli("list", tmp_path / "none.py")
    assert done.exit_code == 2
    assert "must name an existing file" in text_of(done)


def test_doctor_starts_each_worker_once():
    done = cli("doctor", here("RIGHT"))
    assert done.exit_code == 0, done.output
    for word in ("ok python", "temporary folder", "C++ compiler", "ok numpy numpy ", "ok workers started and ended"):
        assert word in text_of(done)


@pytest.mark.slow
def test_doctor_finds_a_worker_that_does_not_start():
    done = cli("doctor", here("FAULTY"))
    assert done.exit_code == 3
    assert "fault numpy-a exit status 1" in text_of(done)
    assert "ok numpy-b" in text_of(done)  # it starts; its map is wrong


def test_fingerprint_of_one_runner_is_shown_and_written(tmp_path):
    done = cli("fingerprint", here("SCALE"), "--runner", "numpy", "--json", tmp_path / "fingerprint.json")
    assert done.exit_code == 0, done.output
    assert "accumulation.mean.float16" in text_of(done)
    content = json.loads((tmp_path / "fingerprint.json").read_text())
    assert list(content) == ["numpy"]
    assert content["numpy"]["versions"] == {"numpy": np.__version__}


def test_numpy_has_a_fingerprint():
    [state] = parity.fingerprints(RIGHT)
    assert state.fingerprint["version.numpy"] == np.__version__


@pytest.mark.slow
def test_a_report_becomes_a_page_and_junit(tmp_path):
    json_file, html, junit = (tmp_path / f"report.{kind}" for kind in ("json", "html", "xml"))
    assert cli(here("SCALE"), *QUICK, "--json", json_file).exit_code == 1
    done = cli("report", json_file, "--html", html, "--junit", junit)
    assert done.exit_code == 0, done.output
    assert html.read_text().startswith("<!")
    assert "numpy-off" in html.read_text()
    failed = [case for case in ElementTree.parse(junit).iter("testcase") if case.find("failure") is not None]
    assert len(failed) == 1
    shown = cli("report", json_file)
    assert shown.exit_code == 0
    assert "Scale: exit status 1 BITWISE" in text_of(shown) or "Scale: exit status 1 EXCEEDS" in text_of(shown)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', "\x00"])
def test_a_file_that_is_no_report_is_exit_2(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    done = cli("report", tmp_path / "report.json")
    assert done.exit_code == 2
    assert "must be a report of run --json" in text_of(done)


def test_a_report_that_lacks_its_results_is_exit_2(tmp_path):
    (tmp_path / "report.json").write_text('{"schema": 2}')
    assert cli("report", tmp_path / "report.json").exit_code == 2


@pytest.mark.parametrize(
    ("frameworks", "runners"),
    [
        (["numpy"], 1),
        pytest.param(["torch", "numpy"], 2, marks=pytest.mark.slow),
        pytest.param(["torch", "keras", "linen", "nnx", "jax", "numpy"], 8, marks=pytest.mark.slow),
    ],
    ids=["numpy", "torch and numpy", "all"],
)
def test_init_writes_a_file_that_runs_green(tmp_path, frameworks, runners):
    file = tmp_path / "mine.py"
    done = cli("init", *frameworks, "--file", file)
    assert done.exit_code == 0
    assert f"Wrote {file}. Run it: eca-multi parity {file}" in done.output
    done = cli(file, "--dtype", "float32", "--case", "offsets", "--check", "forward,weight_grad")
    assert done.exit_code == 0, done.output
    assert f"{runners} of {runners} runners ran" in text_of(done)


def test_init_leaves_a_file_that_is_there(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("mine")
    done = cli("init", "torch", "--file", file)
    assert done.exit_code == 2
    assert "is there already; --file names another" in text_of(done)
    assert file.read_text() == "mine"
