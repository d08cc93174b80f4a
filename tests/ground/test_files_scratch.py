"""What dead processes leave is cleared, and what the living use is not."""

import contextlib
import errno
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile

import pytest

from eca_multi._files import scratch as _scratch
from eca_multi._files.file import whole_file
from eca_multi._files.scratch import scratch_folder
from tests.support.files_killed import state
from tests.support.writing import WRITERS, content, left_in, write

WRITER = """
import sys, re
from eca_multi._files.file import whole_file
from eca_multi._files.folder import Known, whole_folder
from eca_multi._files.scratch import scratch_folder
what, path = sys.argv[1:]
known = Known("", "a", re.compile("a"))
kind = {"file": lambda: whole_file(path), "folder": lambda: whole_folder(path, known)}
with kind.get(what, lambda: scratch_folder(what, path))() as made:
    print("ready", flush=True)
    sys.stdin.read()
    made.write(b"x") if what == "file" else None if what not in kind else (made.mkdir(), (made / "a").write_text("x"))
"""


@contextlib.contextmanager
def writing(what, path):
    """A process that is in the middle of writing; it ends when its input does."""
    run = [sys.executable, "-c", WRITER, what, str(path)]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.parametrize("what", [*WRITERS, "eca-parity"])
def test_the_livings_is_left_alone_and_the_deads_is_cleared(tmp_path, what):
    target = tmp_path if what == "eca-parity" else tmp_path / "theirs"
    with writing(what, target) as process:
        (theirs,) = left_in(tmp_path)
        write(tmp_path / "ours", "file")
        write(tmp_path / "folder", "folder")
        assert left_in(tmp_path) == [theirs]
        process.communicate("")
        assert process.returncode == 0
    assert left_in(tmp_path) == []
    assert (tmp_path / "theirs").exists() == (what != "eca-parity")
    with writing(what, target) as process:
        process.kill()
    assert len(left_in(tmp_path)) == 1  # the control: nobody else clears it
    write(tmp_path / "ours", "file")
    assert left_in(tmp_path) == []


def test_two_writers_in_one_process(tmp_path):
    with whole_file(tmp_path / "one") as one, scratch_folder(parent=tmp_path) as folder:
        write(tmp_path / "two", "file")
        write(tmp_path / "one", "file", "the first")
        assert folder.is_dir()
        one.write(b"the last")
    assert content(tmp_path / "one") == "the last"
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("what", WRITERS)
def test_many_writers_of_one_target(tmp_path, what):
    """They clear the folder all the time, and each other's never."""
    code = (
        "import os, sys; os.fsync = lambda handle: None\n"
        "from pathlib import Path; from tests.support.files_killed import write\n"
        "for i in range(100): write(Path(sys.argv[1]), *sys.argv[2:])"
    )
    run = [sys.executable, "-c", code, tmp_path / "target", what]
    processes = [subprocess.Popen([*run, letter], stderr=subprocess.PIPE) for letter in "abc"]
    for process in processes:
        assert process.communicate(timeout=60)[1] == b""
    assert state(tmp_path / "target", what) in "abc"
    assert left_in(tmp_path) == []


def test_somebody_else_makes_the_folder_first(tmp_path, monkeypatch):
    """What is known is replaced; anything else is not."""
    real, texts = os.rename, ["theirs", "theirs"]

    def late(one, other):
        if texts:
            monkeypatch.setattr("os.rename", real)
            write(other, "folder", texts.pop())
            monkeypatch.setattr("os.rename", late)
            if not texts:
                (tmp_path / "second" / "mine").write_text("mine")
        real(one, other)

    monkeypatch.setattr("os.rename", late)
    write(tmp_path / "first", "folder", "ours")
    assert content(tmp_path / "first") == "ours"
    with pytest.raises(FileExistsError, match="also holds 'mine'"):
        write(tmp_path / "second", "folder", "ours")
    assert (tmp_path / "second" / "a").read_text() == "theirs"


def test_only_what_is_proven_to_be_dead_is_cleared(tmp_path):
    host, number = _scratch._host(), "0123456789abcdef"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    kept = [
        f".eca-another-host-{number}.tmp", f".eca-x{host}-{number}.tmp", f".eca-{host}-{number}.tmp.txt",
        f".eca-{host}-{number[1:]}.tmp", f"eca-9-{host}-{number}.tmp", f"x.eca-{host}-{number}.tmp",
        ".eca-8kq2x_f1.tmp",  # of an older version of this package: nothing says whose it is
    ]  # fmt: skip
    for name in kept:
        (tmp_path / name).write_text("")
    link, pipe = f".eca-{host}-{number[::-1]}.tmp", f".eca-{host}-{'1' * 16}.tmp"
    (tmp_path / link).symlink_to("mine")
    os.mkfifo(tmp_path / pipe)
    (tmp_path / f".eca-{host}-{number}.tmp").write_text("")
    (tmp_path / f"eca-parity-{host}-{number}.tmp" / "inner").mkdir(parents=True)
    (tmp_path / f"eca-parity-{host}-{number}.tmp" / "inner").chmod(0)
    write(tmp_path / "target", "file")
    assert left_in(tmp_path) == sorted([*kept, link, pipe])
    assert (tmp_path / "mine" / "file").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOSYS, "unknown")])
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    """It is written to, and nothing is cleared."""

    def flock(*args):
        raise error

    with writing("file", tmp_path / "theirs") as process:
        process.kill()
    before = left_in(tmp_path)
    monkeypatch.setattr("fcntl.flock", flock)
    write(tmp_path / "target", "file")
    write(tmp_path / "folder", "folder")
    assert left_in(tmp_path) == before != []


def test_scratch_folders_of_dead_runs_are_cleared_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with contextlib.ExitStack() as stack:
        prefixes = ("eca-parity", "eca-pytest", "eca-roundtrip", "eca-assets")
        for process in [stack.enter_context(writing(prefix, tmp_path)) for prefix in prefixes]:
            process.kill()
    assert len(left_in(tmp_path)) == 4
    with scratch_folder("eca-parity") as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.name.startswith(f"eca-parity-{socket.gethostname()[:10]}")
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_worker_of_the_harness_leaves_goes_with_its_run(tmp_path):
    """It is killed when it says nothing, or when the run is, and cannot clear up."""
    (tmp_path / "layers.py").write_text(
        "import time\nfrom eca_multi._files.scratch import scratch_folder\n"
        "from eca_multi.parity import Case, NumpyAdapter, Runner, Spec\n"
        "class Right(NumpyAdapter):\n"
        "    def build(self, config):\n        return lambda inputs, weights: inputs['x'] * weights['s']\n"
        "class Silent(Right):\n"
        "    def build(self, config):\n        with scratch_folder('eca-roundtrip') as made:\n"
        f"            open({str(tmp_path / 'made')!r}, 'w').write(str(made))\n            time.sleep(60)\n"
        "SPEC = Spec('Scale', 'NC', weights={'s': 'C'}, reference=Right, cases=(Case('small'),),\n"
        "    runners={'silent': Silent})\n"
    )
    (tmp_path / "scratch").mkdir()
    run = [sys.executable, "-m", "eca_multi", "parity", tmp_path / "layers.py", "--timeout", "5"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert "said nothing for 5 s" in done.stdout, done.stderr
    made = (tmp_path / "made").read_text()
    assert re.search(r"/scratch/eca-parity-[^/]+\.tmp/worker-\d+/eca-roundtrip-[^/]+\.tmp$", made)
    assert list((tmp_path / "scratch").iterdir()) == []
