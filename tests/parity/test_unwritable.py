"""A full disk, a path in no folder, a pipe: one line, and the old file stays."""

import errno
import os
import subprocess
import sys

import pytest

from eca_multi import parity
from eca_multi._files.file import write_atomically
from tests.support.parity_runs import QUICK, cli, here, text_of


@pytest.fixture
def full(monkeypatch):
    """A disk that has no room: known when the file is flushed, after half of it was written."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("eca_multi._files.file.os.fsync", fsync)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_full_disk_under_a_bundle_is_one_line(full, tmp_path):
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert done.exit_code in (1, 3)
    assert "[Errno 28] No space left on device" in done.output
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_a_full_disk_under_a_bundle_leaves_the_verdict(full, tmp_path):
    done = cli(here("SCALE"), *QUICK, "--bundles", tmp_path / "bundles")
    assert done.exit_code == 1
    assert "FAIL numpy-off float32 offsets y: EXCEEDS_BUDGET" in done.output


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
