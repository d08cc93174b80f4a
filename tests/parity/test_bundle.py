"""The bundle of a failure: what it holds, and how it is replayed, shrunk and written."""

import errno
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eca_multi import parity
from eca_multi._files.file import write_atomically
from eca_multi._files.folder import check_replaceable
from eca_multi.parity.explain.bundle import BUNDLE, FILES, SUMS, read_bundle
from tests.support.parity_runs import QUICK, cli, exceeding, here, quick, text_of, verdicts
from tests.support.scale import (
    MANUAL,
    SCALE,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """What is left of one failure."""
    folder = tmp_path_factory.mktemp("bundle")
    report = quick(SCALE, bundles=folder / "of it")
    assert report.exit_code == 1
    [one] = report.localisations
    assert one.bundle == str(folder / "of it" / "numpy-off--offsets--float32")
    assert report.replay == one.replay
    assert shlex.split(report.replay) == [
        "eca-multi",
        "parity",
        "replay",
        one.bundle,
        "--trust",
    ]  # a folder with a space
    return Path(one.bundle)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_replay_of_a_tolerance_by_hand_is_judged_by_it(manual):
    again = parity.replay(manual, trust=True)
    assert (again.spec["budget"], again.spec["c"]) == ("manual", 1.0)
    assert again.cells[0].judgement.budget_use == pytest.approx(10, rel=0.01)


def test_the_smallest_case_has_weights_of_its_size(bundle):
    job = read_bundle(bundle).job
    assert job.weights["s"].shape == (job.config["C"],)
    assert job.inputs["x"].shape == (job.config["N"], job.config["C"])


def test_the_repro_of_a_tolerance_by_hand_is_judged_by_it(manual):
    done = subprocess.run([sys.executable, f"{manual}/repro.py", "--trust"], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(10, rel=0.01)


@pytest.mark.slow
def test_a_bundle_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    def write(path, data):
        if Path(path).name == "repro.py":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, data)

    monkeypatch.setattr("eca_multi.parity.explain.bundle.write_atomically", write)
    cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert not [path for path in (tmp_path / "bundles").rglob("*") if path.is_file()]


@pytest.mark.slow
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
