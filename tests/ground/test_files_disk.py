"""The disk is waited for, and paths of every kind are written to."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from eca_multi._files import disk as _disk
from eca_multi._files import folder as _folders
from tests.support.writing import WRITERS, content, left_in, write

# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def done(monkeypatch):
    """What was synchronised and renamed, in order."""
    steps, fsync, replace, rename, exchange = [], os.fsync, os.replace, os.rename, _disk.exchange

    def watch(name, real, *args):
        steps.append(
            (name, *(os.readlink(f"/proc/self/fd/{arg}") if isinstance(arg, int) else str(arg) for arg in args))
        )
        return real(*args)

    monkeypatch.setattr("os.fsync", lambda handle: watch("fsync", fsync, handle))
    monkeypatch.setattr("os.replace", lambda one, other: watch("move", replace, one, other))
    monkeypatch.setattr("os.rename", lambda one, other: watch("move", rename, one, other))
    monkeypatch.setattr(_folders, "exchange", lambda one, other: watch("move", exchange, one, other))
    return steps


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says which file a handle is of")
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("what", WRITERS)
def test_all_of_it_is_on_the_disk_before_it_is_renamed_and_the_name_after(tmp_path, done, what, there):
    if there:
        write(tmp_path / "target", what, "old")
        done.clear()
    write(tmp_path / "target", what)
    (moved,) = [i for i, step in enumerate(done) if step[0] == "move"]
    source = done[moved][1]
    assert done[moved][2] == str(tmp_path / "target")
    inside = [""] if what == "file" else ["", "/a", "/inner", "/inner/b"]
    assert sorted({step[1] for step in done[:moved]}) == [source + name for name in inside]
    assert str(tmp_path) in [step[1] for step in done[moved + 1 :]]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_synchronised(tmp_path, monkeypatch, number):
    """Some file systems cannot: what was written is there. An error of the disk is one."""
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="Input/output") if number == errno.EIO else contextlib.nullcontext():
        write(tmp_path / "target", "file")
    assert content(tmp_path / "target") == "new"


# --- paths of every kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", WRITERS)
def test_paths(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    long = "x" * 255
    for path in ("relative", "./again", b"bytes", "b\udcff", long, tmp_path / "path"):
        for text in ("old", "new"):
            write(path, what, text)
        assert content(Path(os.fsdecode(path))) == "new"
    assert left_in(tmp_path) == []
    assert len(os.listdir(tmp_path)) == 6
    with pytest.raises(OSError, match="File name too long"):
        write("x" * 256, what)
    for path in ("", "none/target"):
        with pytest.raises(FileNotFoundError, match=r"No such file or directory: '(.*none)?'"):
            write(path, what)
    for path in (None, 3, tmp_path.stat()):
        with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object"):
            write(path, what)
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        write(__file__ + "/target", what)
    assert len(os.listdir(tmp_path)) == 6


def test_a_long_name_in_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(_folders, "exchange", lambda one, other: False)
    for text in ("old", "new"):
        write(tmp_path / ("ü" * 127), "folder", text)
        assert content(tmp_path / ("ü" * 127)) == text


@pytest.mark.parametrize("what", WRITERS)
def test_a_folder_that_may_not_be_written_to_is_named(what):
    # Not in pytest's own folders: nobody but their owner may enter those.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name, "closed")
        place.mkdir()
        Path(name).chmod(0o755)
        place.chmod(0o555)
        with contextlib.ExitStack() as stack:
            if os.geteuid() == 0:
                os.seteuid(65534)
                stack.callback(os.seteuid, 0)
            with pytest.raises(PermissionError, match=f"Permission denied: '{place}'"):
                write(place / "target", what)
        assert list(place.iterdir()) == []


def test_devices_and_pipes_are_written_to(tmp_path):
    write("/dev/null", "file")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space left on device"):
            write("/dev/full", "file")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", "file")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        write(tmp_path / "pipe", "folder")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "//dev/stdout", "a link to a link"])
def test_what_a_shell_has_opened_is_added_to(tmp_path, name):
    """`--json /dev/stdout >> log` must not put a new file in the place of the log."""
    (tmp_path / "log").write_text("what was there, ")
    (tmp_path / "a link to a link").symlink_to("link")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = f"from eca_multi._files.file import write_atomically; write_atomically({name!r}, b'new')"
    with open(tmp_path / "log", "ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True, timeout=60, cwd=tmp_path)
    assert (tmp_path / "log").read_text() == "what was there, new"
