"""convert writes whole or not at all: folders, signals, full disks; and its memory."""

import errno
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from eca_multi._files.file import write_atomically
from eca_multi.checkpoints import convert, read_checkpoint
from tests.support.checkpoint_factory import (
    TARGETS,
)
from tests.support.converting import assert_same, marks, run

# --- what is not destroyed -------------------------------------------------------------------------------------------


def states_in(folder):
    """Of each path all but the time of access, which following a link changes."""
    found = {path: os.lstat(path) for path in (folder, *folder.rglob("*"))}
    return {path: (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns) for path, state in found.items()}


@pytest.mark.parametrize("to", ["linen", "nnx"])
@pytest.mark.parametrize("target", ["checkpoints", ".", "..", "link", "link/", "here"])
def test_a_folder_of_ones_own_is_kept(tmp_path, files, monkeypatch, target, to):
    """It is refused at once, on one line, with status 2."""
    source = files("timm")
    here = tmp_path / "here"
    (here / "checkpoints").mkdir(parents=True)
    (here / "checkpoints" / "train.py").write_text("mine")
    (here / "link").symlink_to("checkpoints")
    (here / "here").symlink_to(here)
    before = states_in(tmp_path)
    monkeypatch.chdir(here)
    module = import_module("eca_multi.checkpoints.convert")  # by name, the package has the function instead
    monkeypatch.setattr(module, "detect", lambda path: pytest.fail("it is refused too late"))
    done = run(source, target, "--to", to)
    assert done.exit_code == 2
    assert "path must name a new folder, an empty one, or a checkpoint of orbax" in done.stderr
    assert f"Received: {str(Path(target))!r}, which " in done.stderr
    assert done.stderr.count("\n") == 1
    assert states_in(tmp_path) == before


@pytest.mark.parametrize(
    ("to", "target"), [("torch", "a.pth"), ("keras", "a.keras"), ("nnx", "a.msgpack"), ("canonical", "a.safetensors")]
)
def test_a_folder_where_a_file_is_wanted(tmp_path, files, target, to):
    (tmp_path / target).mkdir()
    done = run(files("timm"), tmp_path / target, "--to", to)
    assert done.exit_code == 2
    assert f"target must be a file. Received: '{tmp_path / target}', a folder. Name a file in it." in done.stderr
    assert [*tmp_path.rglob("*")] == [tmp_path / target]


@pytest.mark.parametrize("to", ["torch", "canonical"])
def test_paths_in_bytes_and_permissions_that_are_kept(tmp_path, files, weights, to):
    target = tmp_path / "there.safetensors"
    target.write_text("the old one")
    target.chmod(0o640)
    (tmp_path / "model.safetensors").symlink_to(target)
    report = convert(os.fsencode(files("timm")), os.fsencode(tmp_path / "model.safetensors"), to=to)
    assert report.source == str(files("timm"))
    assert os.readlink(tmp_path / "model.safetensors") == str(target)
    assert target.stat().st_mode & 0o7777 == 0o640
    assert_same(read_checkpoint(target).weights, weights)


# --- signals ---------------------------------------------------------------------------------------------------------


# The command, to which a signal is sent when it writes: once the first bytes are there, and after a while more.
SIGNALLED = """
import os, sys, threading, time
from pathlib import Path
number, wait, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
sys.argv[1:] = sys.argv[4:]
def signal():
    while not any(path.is_file() for path in folder.rglob("*") if ".eca-" in str(path)):
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(os.getpid(), number)
threading.Thread(target=signal, daemon=True).start()
fsync = os.fsync
os.fsync = lambda handle: (time.sleep(0.3), fsync(handle))  # a slow disk: the signal comes before the end
from eca_multi.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("to", "suffix", "wait"),
    [
        ("canonical", ".safetensors", 0),
        *(pytest.param("torch", suffix, 0, marks=pytest.mark.slow) for suffix in (".pth", ".safetensors")),
        *(pytest.param("nnx", "", wait, marks=pytest.mark.slow) for wait in (0, 0.05, 0.1, 0.2, 0.4)),
        pytest.param("linen", ".msgpack", 0, marks=pytest.mark.slow),
        *(pytest.param("keras", ".keras", wait, marks=marks("keras", slow=True)) for wait in (0, 0.3)),
    ],
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_leaves_the_old_target_and_nothing_beside_it(tmp_path, files, name, to, suffix, wait):
    number, target = getattr(signal, name), tmp_path / f"model{suffix}"
    if suffix:
        target.write_text("the old one")
    command = ["convert", files("canonical"), target, "--to", to]
    run = [sys.executable, "-c", SIGNALLED, str(int(number)), str(wait), tmp_path, *command]
    done = subprocess.run(list(map(str, run)), capture_output=True, text=True, check=False, timeout=200)
    if name == "SIGKILL":  # the control: nobody could clear up, and the next writer does
        assert done.returncode == -number
        assert [path for path in tmp_path.iterdir() if path != target] != []
        write_atomically(tmp_path / "other", b"")
        (tmp_path / "other").unlink()
    else:
        assert done.returncode == 128 + number, done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "the old one")] * bool(
        suffix
    )


# --- a disk that fills -----------------------------------------------------------------------------------------------


FULL = [(to, suffix) for to, suffixes in TARGETS.items() for suffix in suffixes if suffix]
FOLDERS = [pytest.param(to, "", marks=marks(slow=True)) for to in TARGETS if "" in TARGETS[to]]


@pytest.mark.parametrize(("to", "suffix"), [pytest.param(*case, marks=marks(case[0])) for case in FULL])
def test_a_disk_that_fills_at_the_end(tmp_path, files, monkeypatch, to, suffix):
    """Known when the file is flushed: the old file stays, and nothing beside it."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / f"model{suffix}"
    target.write_text("the old one")
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="No space left on device"):
        convert(files("timm"), target, to=to)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "the old one")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "suffix"),
    [pytest.param(to, suffixes[0], marks=marks(to, slow=to != "torch")) for to, suffixes in TARGETS.items()]
    + [("torch", ".safetensors"), *FOLDERS],
)
def test_a_disk_that_fills_midway(tmp_path, files, to, suffix):
    """No file may be longer than a tenth of what is to be written: a real error of the system, in a real process."""
    blocks = 4_000_000 // (1024 if sys.platform == "linux" else 512)
    run = [sys.executable, "-m", "eca_multi", "convert", files("timm"), tmp_path / f"model{suffix}", "--to", to]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *map(str, run)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr or not suffix  # orbax's threads may complain on their own
    assert list(tmp_path.iterdir()) == []


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process its largest resident set")
def test_memory_is_at_most_one_and_a_half_files():
    script = Path(__file__).parents[2] / "benchmarks" / "convert_memory.py"
    run = [sys.executable, script, "--arch", "eca_resnet50", "--pairs", "torch-canonical", "canonical-torch"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, check=True)
    shares = [float(line.split("|")[-2]) for line in done.stdout.splitlines()[2:]]
    assert len(shares) == 2
    assert all(0.1 < share <= 1.5 for share in shares), done.stdout  # nothing is that small but what was not measured
