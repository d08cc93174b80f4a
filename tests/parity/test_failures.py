"""What follows a failure: where it begins, the smallest case, the bundle, and one clear line for what cannot be right.

The specification here is NumPy's alone, so that a run takes a second; this file is what its workers load. What needs
taps runs the mutants of ECA, all in one run.
"""
# ruff: noqa: RUF012  (an adapter declares its weight map as a class attribute, as users do)

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from eca_multi import parity
from eca_multi._files.file import write_atomically
from eca_multi._files.folder import check_replaceable
from eca_multi.cli.main import app
from eca_multi.parity import Case, KerasAdapter, Manual, NumpyAdapter, Runner, Spec, SpecError, UsageError, Verdict
from eca_multi.parity.define.runners import FRAMEWORKS, runners_of
from eca_multi.parity.explain.bundle import BUNDLE, FILES, SUMS, read_bundle

HERE = Path(__file__)
MUTANTS = HERE.parents[1].joinpath("support", "mutants.py")
QUICK = ("--dtype", "float32", "--case", "offsets", "--check", "forward")

# --- a layer, and what may be wrong with it ------------------------------------------------------------------------


class Scale(NumpyAdapter):
    """The layer as it should be, by another way than the reference."""

    def build(self, config):
        return lambda inputs, weights: inputs["x"] / (1 / weights["s"])


class Truth(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]


class Off(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"] * np.float32(1.01)


class NoBuild(NumpyAdapter):
    pass


class Leftover(Scale):
    weights = {}


class NoPermutation(Scale):
    weights = {"s": "s: C -> C C"}


class Nan(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: np.where(inputs["x"] > 0, inputs["x"], np.nan) * weights["s"]


class Drifting(Truth):
    """Within the budget, and not the same twice: the last bit changes."""

    evaluations = 0

    def build(self, config):
        self.evaluations += 1
        last = np.float32(1 + self.evaluations % 2 * 2.0**-23)
        return lambda inputs, weights: inputs["x"] * weights["s"] * last


class Marked(Scale):
    """Right only under an interpreter that sets the mark."""

    def build(self, config):
        return super().build(config) if "PARITY_TEST_MARK" in os.environ else Off.build(self, config)


class DiesLater(Off):
    """Wrong, and dead when it is asked again: the evaluations of the first batch come through."""

    evaluations = 1

    def build(self, config):
        self.evaluations -= 1
        if self.evaluations < 0:
            print("last words", flush=True)
            os._exit(9)
        return super().build(config)


class DiesInTheSecondCase(DiesLater):
    build = DiesLater.build


class WrongCompiled(KerasAdapter):
    """Right when it is run eagerly."""

    def build(self, config):
        import keras
        import tensorflow as tf

        class Layer(keras.layers.Layer):
            def build(self, shape):
                self.s = self.add_weight(shape=(shape[-1],), name="s")

            def call(self, x):
                return x * self.s * (1.0 if tf.executing_eagerly() else 1.01)

        return Layer()


FIELDS = {"layout": "N C", "weights": {"s": "C"}, "reference": Truth}
SCALE = Spec("Scale", runners={"numpy": Scale, "numpy-off": Off}, **FIELDS)
RIGHT = replace(SCALE, runners={"numpy": Scale})
MANUAL = replace(SCALE, budget=Manual(1e-3))
NAN = replace(RIGHT, reference=Nan)
FAULTY = replace(
    SCALE,
    runners={"numpy": Scale, "numpy-a": NoBuild, "numpy-b": Leftover, "numpy-c": NoPermutation},
)


def cli(*args, columns=200):
    return CliRunner().invoke(app, ["parity", *map(str, args)], env={"COLUMNS": str(columns)})


def text_of(done) -> str:
    """What the command said, without the frame around it."""
    return " ".join(done.output.replace("│", " ").split())


def here(name: str) -> str:
    return f"{HERE}:{name}"


def quick(spec: Spec, **options):
    """One case in float32, in milliseconds beside the start of the workers."""
    return parity.run(spec, **{"dtypes": ["float32"], "cases": ["offsets"], "checks": ["forward"], **options})


def verdicts(report) -> dict[str, Verdict]:
    return {cell.tensor: cell.verdict for cell in report.cells}


# --- where it begins -----------------------------------------------------------------------------------------------


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
    assert stages == ["pooled", "conv", "gate", "y", "d_gate", "d_conv", "d_pooled", "dx", "dw"]


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


def exceeding(bundle) -> set[str]:
    """The tensors that fail by the files of a bundle alone."""
    folder = Path(bundle)
    about, truth, results = (
        json.loads((folder / "bundle.json").read_text()),
        load_file(folder / "reference.safetensors"),
        load_file(folder / "results.safetensors"),
    )
    return {n for n in results if n in truth and (abs(results[n] - truth[n]) > about["c"] * truth[f"{n}@error"]).any()}


@pytest.mark.slow
def test_the_same_verdict_is_in_the_text_of_the_error(found):
    with pytest.raises(parity.ParityError, match=r"FlippedKernel float32 same-sign: first divergence: conv"):
        found.raise_for_status()


def test_a_layer_that_is_not_the_same_twice_fails_determinism_alone():
    runners = {"numpy": Scale, "numpy-drifting": Drifting}
    report = quick(replace(SCALE, runners=runners), checks=["forward", "determinism"])
    assert {(c.runner, c.check) for c in report.cells if c.verdict.disagrees} == {("numpy-drifting", "determinism")}
    assert {c.verdict for c in report.cells if (c.runner, c.check) == ("numpy", "determinism")} == {Verdict.BITWISE}


@pytest.mark.slow
def test_a_mutant_that_is_not_the_same_twice_is_caught_where_gates_are_small():
    """A billionth, which is below half a unit of all but the smallest gates."""
    done = cli("--runner", f"{MUTANTS}:Random", *QUICK[:2], "--case", "saturated", "--check", "determinism")
    assert done.exit_code == 1
    assert "FAIL mutants:Random float32 saturated determinism y: EXCEEDS_BUDGET" in done.output


# --- the bundle ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """What is left of one failure."""
    folder = tmp_path_factory.mktemp("bundle")
    report = quick(SCALE, bundles=folder / "of it")
    assert report.exit_code == 1
    [one] = report.localisations
    assert one.bundle == str(folder / "of it" / "numpy-off--offsets--float32")
    assert report.replay == one.replay
    assert shlex.split(report.replay) == ["eca-multi", "parity", "replay", one.bundle]  # whose folder has a space
    return Path(one.bundle)


def test_a_bundle_holds_what_it_takes_and_no_more(bundle):
    assert {path.name for path in bundle.iterdir()} == {*FILES, SUMS}


def test_a_replay_gives_the_same_verdicts(bundle):
    report = parity.replay(bundle, trust=True)
    assert report.exit_code == 1
    assert {name for name, verdict in verdicts(report).items() if verdict.disagrees} == exceeding(bundle) == {"y"}
    assert (report.spec["budget"], report.spec["name"]) == ("stochastic", "Scale")


def test_a_replay_with_a_right_adapter_is_green(bundle):
    done = cli("replay", bundle, "--trust", "--runner", here("Scale"))
    assert done.exit_code == 0, done.output
    assert "All agree: 1 of 1 tensors" in text_of(done)


def test_localize_shows_the_chain_with_the_culprit(bundle):
    done = cli("localize", bundle, "--trust")
    assert done.exit_code == 1, done.output
    assert "EXCEEDS_BUDGET <-- here" in text_of(done)
    done = cli("localize", bundle, "--trust", "--runner", here("Scale"))
    assert (done.exit_code, done.stdout) == (0, "It does not fail here.\n")


def test_the_repro_is_short_and_runs_alone_from_another_folder(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "moved")
    assert len((copy / "repro.py").read_text().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, copy / "repro.py", "--trust"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    name, *_, share = done.stdout.split()
    assert name == "y"
    assert float(share) > 100


@pytest.fixture(scope="module")
def manual(tmp_path_factory) -> str:
    """A bundle of a failure that was judged by a tolerance: ten times what is allowed."""
    return quick(MANUAL, bundles=tmp_path_factory.mktemp("manual") / "bundles").localisations[0].bundle


def test_a_replay_of_a_tolerance_by_hand_is_judged_by_it(manual):
    again = parity.replay(manual, trust=True)
    assert (again.spec["budget"], again.spec["c"]) == ("manual", 1.0)
    assert again.cells[0].judgement.budget_use == pytest.approx(10, rel=0.01)


SPOILT = {
    "no folder": shutil.rmtree,
    "no description": lambda folder: (folder / "bundle.json").unlink(),
    "half a description": lambda folder: _cut(folder / "bundle.json"),
    "an empty description": lambda folder: (folder / "bundle.json").write_text(""),
    "a list": lambda folder: (folder / "bundle.json").write_text("[]"),
    "a field too few": lambda folder: _edit(folder, lambda about: about.pop("adapter")),
    "another schema": lambda folder: _edit(folder, lambda about: about.update(schema=99)),
    "half the arrays": lambda folder: _cut(folder / "job.safetensors"),
    "no arrays": lambda folder: (folder / "job.safetensors").unlink(),
    "other arrays": lambda folder: (folder / "job.safetensors").write_bytes(b"\xff" * 64),
    "bytes": lambda folder: (folder / "bundle.json").write_bytes(b"\xff\xfe\x00"),
    "axes of another kind": lambda folder: _edit(folder, lambda about: about["job"].update(axes=[])),
    "an array changed": lambda folder: _flip(folder / "job.safetensors"),
    "a result changed": lambda folder: _flip(folder / "results.safetensors"),
    "no reference": lambda folder: (folder / "reference.safetensors").unlink(),
    "a field of another type": lambda folder: _edit(folder, lambda about: about.update(env=3)),
    "a setting that is no text": lambda folder: _edit(folder, lambda about: about.update(env={"A": 3})),
    "a name that no command line takes": lambda folder: _edit(folder, lambda about: about.update(adapter="a:b\0")),
    "half a character": lambda folder: _edit(folder, lambda about: about.update(python="\ud800")),
    "no budget": lambda folder: _edit(folder, lambda about: about.update(c=float("inf"))),
    "another dtype": lambda folder: _edit(folder, lambda about: about["job"].update(dtype="Tensor")),
    "the schema before": lambda folder: _edit(folder, lambda about: about.update(schema=2)),
    "the description changed": lambda folder: _space(folder / "bundle.json"),
    "the script changed": lambda folder: _space(folder / "repro.py"),
    "no sums": lambda folder: (folder / SUMS).unlink(),
    "a pipe": lambda folder: _pipe(folder / "results.safetensors"),
}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _space(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x40
    file.write_bytes(bytes(data))


def seal(folder: Path) -> None:
    """Renew the sums, as one who forges a bundle does."""
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES]
    (folder / SUMS).write_text("".join(sums))


def _edit(folder: Path, change) -> None:
    about = json.loads((folder / "bundle.json").read_text())
    change(about)
    (folder / "bundle.json").write_text(json.dumps(about))
    seal(folder)


@pytest.mark.parametrize("how", SPOILT)
def test_a_bundle_that_is_not_whole_is_one_line_and_exit_2(bundle, tmp_path, how):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    SPOILT[how](copy)
    done = cli("replay", copy)
    assert done.exit_code == 2, done.output
    assert "copy must be a" in text_of(done)
    assert "bundle" in text_of(done)
    assert "Traceback" not in done.output


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    spec = replace(SCALE, runners={"keras-tensorflow": WrongCompiled})
    return quick(spec, checks=["forward", "compiled"], bundles=tmp_path_factory.mktemp("compiled") / "bundles")


@pytest.mark.slow
def test_what_fails_compiled_alone_says_so(compiled):
    assert {(c.check, c.verdict.green) for c in compiled.compared} == {("forward", True), ("compiled", False)}
    [one] = compiled.localisations
    assert one.line.endswith("first divergence: none when run eagerly: compiling changes the result")


@pytest.mark.slow
def test_a_replay_of_what_fails_compiled_fails_too(compiled):
    assert parity.replay(compiled.localisations[0].bundle, trust=True).exit_code == 1


# --- two files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    def write(name, **arrays):
        save_file({key.replace("_error", "@error"): np.asarray(a) for key, a in arrays.items()}, tmp_path / name)
        return tmp_path / name

    return write


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("first", "second", "options", "code", "verdict"),
    [
        ({"y": ONES}, {"y": ONES}, (), 0, "BITWISE"),
        ({"y": ONES}, {"y": ONES + 1e-6}, (), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES + 1e-6}, {"y": ONES}, ("--atol", "1e-5"), 0, "WITHIN_BUDGET"),
        ({"y": ONES + 1e-4}, {"y": ONES}, ("--rtol", "1e-5"), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES + 3e-6}, {"y": ONES, "y_error": ONES * 1e-6}, (), 0, "WITHIN_BUDGET"),  # c is 4
        ({"y": ONES + 5e-6}, {"y": ONES, "y_error": ONES * 1e-6}, (), 1, "EXCEEDS_BUDGET"),
        ({"y": ONES[:2]}, {"y": ONES}, (), 1, "SHAPE_MISMATCH"),
        ({"y": ONES * np.nan}, {"y": ONES}, ("--atol", "1"), 1, "NONFINITE_MISMATCH"),
        ({"y": ONES}, {"y": ONES, "z": ONES}, (), 1, "MISSING_TAP"),
        ({"y": ONES, "z": ONES}, {"y": ONES}, (), 1, "MISSING_TAP"),
    ],
    ids=["equal", "not equal", "atol", "rtol", "budget", "over budget", "shape", "nan", "fewer", "more"],
)
def test_two_files_are_compared_tensor_by_tensor(files, first, second, options, code, verdict):
    done = cli("compare", files("a.safetensors", **first), files("b.safetensors", **second), *options)
    assert done.exit_code == code, done.output
    assert verdict in done.output


@pytest.mark.parametrize("option", ["--rtol", "--atol"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e400"])
def test_a_tolerance_that_lets_everything_pass_is_refused(files, option, value):
    done = cli("compare", files("a.safetensors", y=ONES), files("b.safetensors", y=ONES), option, value)
    assert done.exit_code == 2
    assert "rtol and atol must be 0 or more, and finite. Received: " in text_of(done)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [np.inf, np.nan, -1.0])
def test_the_api_refuses_such_a_tolerance_too(files, name, value):
    file = files("a.safetensors", y=ONES)
    with pytest.raises(SpecError, match=f"must be 0 or more, and finite. Received: {name}={value}"):
        parity.compare(file, file, **{name: value})


@pytest.mark.parametrize(
    ("error", "code", "verdict"),
    [
        pytest.param([np.inf, np.inf, np.inf], 4, "INCONCLUSIVE", id="infinite"),
        pytest.param([9, 9, np.inf], 4, "INCONCLUSIVE", id="infinite in one"),
        pytest.param([9, 9, np.nan], 4, "INCONCLUSIVE", id="NaN in one"),
        pytest.param([9, 9, -np.inf], 4, "INCONCLUSIVE", id="minus infinity"),
        pytest.param([0.01, 9, np.inf], 1, "EXCEEDS_BUDGET", id="exceeded in another"),
        pytest.param([9, 9, 1e308], 4, "INCONCLUSIVE", id="infinite with its c"),
        pytest.param([9, 9, 9], 0, "WITHIN_BUDGET", id="control"),
    ],
)
def test_a_budget_that_is_no_number_lets_nothing_pass(files, error, code, verdict):
    error = np.array(error, np.float64)
    second = files("b.safetensors", y=ONES, y_error=error)
    done = cli("compare", files("a.safetensors", y=ONES + np.float32(0.5)), second)
    assert (done.exit_code, verdict in done.output) == (code, True), done.output


def test_what_is_equal_bit_for_bit_needs_no_budget(files):
    same = files("a.safetensors", y=ONES), files("b.safetensors", y=ONES, y_error=ONES * np.inf)
    assert parity.compare(*same)["y"].verdict is Verdict.BITWISE


def test_a_tolerance_that_overflows_lets_nothing_pass(files):
    second = files("b.safetensors", y=np.array([1.0, 1e300]))
    result = parity.compare(files("a.safetensors", y=np.array([1.0, 2e300])), second, rtol=1e300)
    assert result["y"].verdict is Verdict.INCONCLUSIVE


def test_a_reference_without_a_bound_makes_a_run_inconclusive(monkeypatch):
    """Exit status 4, whatever the runner returned."""
    monkeypatch.setattr(
        "eca_multi.parity.judge.verdicts.Judge.budget", lambda self, value, error: np.full_like(value, np.inf)
    )
    report = quick(replace(SCALE, runners={"numpy-off": Off}))
    assert {cell.verdict for cell in report.cells} == {Verdict.INCONCLUSIVE}
    assert "the budget is infinite or NaN at [0, 0]" in report.cells[0].reason
    assert report.exit_code == 4


def test_a_file_that_is_none_is_exit_2(files, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    done = cli("compare", files("a.safetensors", y=ONES), tmp_path / "b.safetensors")
    assert done.exit_code == 2
    assert "b.safetensors must be a complete .safetensors file" in text_of(done)


def test_a_budget_of_another_shape_is_exit_2(files):
    done = cli("compare", files("a.safetensors", y=ONES), files("b.safetensors", y=ONES, y_error=ONES[:2]))
    assert done.exit_code == 2
    assert "y@error" in text_of(done)


def test_two_files_without_tensors_are_no_agreement(files):
    assert cli("compare", files("a.safetensors"), files("b.safetensors")).exit_code == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(ONES, ONES.astype(np.float64), id="dtype"),
        pytest.param(ONES * 0, ONES * -0.0, id="sign of zero"),
    ],
)
def test_bit_by_bit_means_every_bit(files, first, second):
    assert cli("compare", files("a.safetensors", y=first), files("b.safetensors", y=second)).exit_code == 1


# --- what cannot be written ----------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch):
    """A disk that has no room: known when the file is flushed, after half of it was written."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("eca_multi._files.file.os.fsync", fsync)


@pytest.mark.parametrize(("runner", "code"), [("numpy", 2), ("numpy-off", 1)], ids=["green", "red"])
def test_a_full_disk_costs_the_report_and_leaves_the_old_one(full, tmp_path, runner, code):
    """One line, and the verdict stands; after a green run the status says that something went wrong."""
    file = tmp_path / "report"
    file.write_text("the old one")
    done = cli(here("SCALE"), *QUICK, "--runner", runner, "--json", file)
    assert done.exit_code == code
    assert f"--json {file} could not be written: [Errno 28] No space left on device" in done.output
    assert "Traceback" not in done.output
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report", "the old one")]


@pytest.mark.parametrize("option", ["--html", "--junit"])
def test_a_full_disk_costs_the_page_alone(full, tmp_path, option):
    (tmp_path / "report.json").write_text(parity.Report([]).to_json())
    done = cli("report", tmp_path / "report.json", option, tmp_path / "page")
    assert done.exit_code == 2
    assert f"{option} {tmp_path / 'page'} could not be written: [Errno 28] No space left on device" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_full_disk_costs_the_file_of_init(full, tmp_path):
    done = cli("init", "torch", "--file", tmp_path / "mine.py")
    assert done.exit_code == 2
    assert "mine.py could not be written: [Errno 28] No space left on device" in text_of(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--json", "--html", "--junit", "--bundles"])
def test_a_path_in_no_folder_is_refused_before_the_run(tmp_path, option):
    done = cli(here("RIGHT"), *QUICK, option, tmp_path / "none" / "report")
    assert done.exit_code == 2
    assert "existing" in text_of(done)
    assert "runner" not in done.output.partition("Usage")[0]


def test_bundles_cannot_be_written_into_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "file")
    assert done.exit_code == 2
    assert "is not a folder in an existing one" in text_of(done)


def test_a_full_disk_under_a_bundle_is_one_line(full, tmp_path):
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert done.exit_code in (1, 3)
    assert "[Errno 28] No space left on device" in done.output
    assert "Traceback" not in done.output


def test_a_full_disk_under_a_bundle_leaves_the_verdict(full, tmp_path):
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert done.exit_code == 1
    assert "FAIL numpy-off float32 offsets y: EXCEEDS_BUDGET" in done.output


def test_a_bundle_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    def write(path, data):
        if Path(path).name == "repro.py":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, data)

    monkeypatch.setattr("eca_multi.parity.explain.bundle.write_atomically", write)
    cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert not [path for path in (tmp_path / "bundles").rglob("*") if path.is_file()]


def test_a_bundle_replaces_a_bundle_and_nothing_else(bundle, tmp_path):
    folder = tmp_path / "bundles" / bundle.name
    shutil.copytree(bundle, folder)
    check_replaceable(folder, BUNDLE)
    (folder / "mine.txt").write_text("mine")
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert done.exit_code == 1
    assert "no bundle was written: path must name a new folder, an empty one, or a bundle" in text_of(done)
    assert (folder / "mine.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_under_the_run_itself_is_one_line():
    """The files of the run may not become larger than nothing."""
    run = [sys.executable, "-m", "eca_multi", "parity", here("RIGHT"), *QUICK]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *run], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr + done.stdout


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 1) == b"x"


# --- what cannot be right ------------------------------------------------------------------------------------------


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
        "from tests.support.parity_workers import Scale, Truth\n"
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
    assert "1 of 1 tensors within budget" in text_of(faulty)
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
        (lambda inputs, weights: inputs["x"], "reference must be at the top level of a file"),
        ("torch", "reference must be one of the runners numpy"),
        (f"{HERE}:Nowhere", "the reference crashed: .*has no adapter 'Nowhere'. It has: "),
        (f"{HERE}:FIELDS", "the reference crashed: .* must be an adapter"),
        (KerasAdapter, "the reference crashed: .* must have build"),
    ],
    ids=["a lambda", "an unknown runner", "an unknown name", "no adapter", "no build"],
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


class Instance(Scale):
    pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runners": {"numpy": Instance()}}, "numpy"),
        ({"config": {"eps": np.float32(1e-5)}}, "config"),
        ({"config": {"function": abs}}, "config"),
        ({"runners": {"reference": Off, "numpy": Scale}}, "reference"),
        ({"runners": {"mutants": Off, "numpy": Scale}}, "mutants"),
    ],
    ids=["an instance", "a NumPy number", "a function", "a runner called reference", "a runner called mutants"],
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


def test_a_script_without_a_main_guard_starts_no_workers_of_workers(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(GUARDLESS)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False, timeout=120)
    assert 'Put the call under `if __name__ == "__main__":`.' in done.stderr.splitlines()[-1]
    assert set(file.with_suffix(".log").read_text().split()) <= {"0", "1"}


# --- workers -------------------------------------------------------------------------------------------------------


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


def test_a_runner_may_have_an_interpreter_of_its_own(wrapper):
    runners = {"numpy-old": Runner("numpy-old", Marked, python=wrapper), "numpy": Marked}
    report = quick(replace(SCALE, runners=runners))
    assert {cell.runner: cell.green for cell in report.cells} == {"numpy-old": True, "numpy": False}


def test_an_interpreter_that_is_not_there_is_a_reason():
    runners = {"numpy-old": Runner("numpy-old", Scale, python="/nowhere/python"), "numpy": Scale}
    report = quick(replace(SCALE, runners=runners))
    assert (report.runners[0].state, report.runners[0].detail) == (
        "unavailable",
        "/nowhere/python is not an interpreter",
    )
    assert report.exit_code == 0
    assert replace(report, required=("numpy-old",)).exit_code == 1


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


# --- the smallest case ---------------------------------------------------------------------------------------------


def test_the_smallest_case_has_weights_of_its_size(bundle):
    job = read_bundle(bundle).job
    assert job.weights["s"].shape == (job.config["C"],)
    assert job.inputs["x"].shape == (job.config["N"], job.config["C"])


def test_the_repro_of_a_tolerance_by_hand_is_judged_by_it(manual):
    done = subprocess.run([sys.executable, f"{manual}/repro.py", "--trust"], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(10, rel=0.01)


# --- the command line ----------------------------------------------------------------------------------------------


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
