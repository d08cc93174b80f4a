"""A writer that fails or is killed midway leaves the old file or folder, whole."""

import errno
import json
import os
import subprocess
import sys

import pytest

from eca_multi._files import disk as _disk
from eca_multi._files import folder as _folders
from eca_multi._files.file import whole_file
from eca_multi._files.folder import whole_folder
from tests.support.writing import KNOWN, SCRIPT, WRITERS, content, write

# --- what fails midway -----------------------------------------------------------------------------------------------


CALLS = ["open", "mkdir", "dup", "fsync", "rename", "replace", "chmod", "chown", "scandir", "listdir", "stat", "unlink"]


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("call", CALLS)
def test_any_call_of_the_system_may_fail(tmp_path, monkeypatch, what, call):
    """The first, the second and so on: the target is the old one or the new one, and the next writer clears up."""
    place = tmp_path / "target"
    real, failed = getattr(os, call), 0
    for number in range(100):
        write(place, what, "old")
        os.chmod(place, 0o750)
        seen = 0

        def fail(*args, number=number, **options):
            nonlocal seen
            seen += 1
            if seen == number + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                write(place, what)
                allowed = ["new"]
            except OSError:
                failed, allowed = failed + 1, ["old", "new"]
        assert content(place) in allowed
        if call not in ("unlink", "scandir", "stat"):  # with which is cleared up
            assert list(tmp_path.iterdir()) == [place]
        if seen <= number:
            break
    else:
        pytest.fail("there is no end of it")
    write(place, what)
    assert list(tmp_path.iterdir()) == [place]
    if call in {"file": ("open", "fsync", "replace", "dup"), "folder": ("mkdir", "listdir", "fsync")}[what]:
        assert failed  # the control: these are called, and not ignored


@pytest.mark.parametrize("what", WRITERS)
def test_an_error_of_the_writer_itself(tmp_path, what):
    place = tmp_path / "target"
    write(place, what, "old")

    def interrupted():
        with whole_file(place) if what == "file" else whole_folder(place, KNOWN) as made:
            made.write(b"half") if what == "file" else made.mkdir()
            raise KeyboardInterrupt("midway")

    with pytest.raises(KeyboardInterrupt, match="midway"):
        interrupted()
    assert content(place) == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_where_two_names_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(_folders, "exchange", lambda one, other: False)
    write(tmp_path / "target", "folder", "old")
    write(tmp_path / "target", "folder")
    assert content(tmp_path / "target") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("back", [True, False])
def test_where_the_second_of_two_renames_fails(tmp_path, monkeypatch, back):
    """The old one is put back; where that fails too, the error says where it is."""
    place = tmp_path / "target"
    write(place, "folder", "old")
    real, calls = os.rename, []

    def rename(one, other):
        calls.append(one)
        if len(calls) == 2 or (len(calls) == 3 and not back):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(one, other)

    monkeypatch.setattr(_folders, "exchange", lambda one, other: False)
    monkeypatch.setattr("os.rename", rename)
    with pytest.raises(OSError, match="Input/output error" if back else "The old folder is whole: it is") as info:
        write(place, "folder")
    (left,) = tmp_path.iterdir()
    assert content(left) == "old"
    if back:
        assert left == place
    else:
        assert left.name.startswith("target.old-")
        assert f"{str(left)!r} now. Rename it to {str(place)!r}." in str(info.value)


def test_exchange(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").write_text("")
    done = _disk.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one").is_file() == done
    assert done == (sys.platform == "linux")  # pytest's folders lie on a file system that can
    if done:
        with pytest.raises(FileNotFoundError, match="No such file or directory"):
            _disk.exchange(tmp_path / "one", tmp_path / "none")
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: object())  # a C library without it
    assert not _disk.exchange(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("number", sorted(_disk._UNKNOWN))
def test_a_kernel_that_does_not_know_exchanging(tmp_path, monkeypatch, number):
    monkeypatch.setattr("ctypes.get_errno", lambda: number)
    assert not _disk.exchange(tmp_path / "none", tmp_path / "neither")


# --- kills -----------------------------------------------------------------------------------------------------------


def killed(folder, what, how, number):
    run = [sys.executable, SCRIPT, what, how, folder, str(number)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    allowed = {"o", "n"} | ({"aside o"} if what == "folder-two-steps" else set())
    assert set(result["states"]) <= allowed
    assert {"o", "n"} <= set(result["states"])  # the control: it was stopped before and after the exchange
    assert result["left"] > 0  # and where there is something to clear
    assert result["stayed"] == 0
    return result


@pytest.mark.parametrize(
    ("what", "how", "every"), [("file", "kill", 1), ("file", "raise", 1), ("folder", "kill", 5), ("folder", "raise", 7)]
)
def test_stopped_at_a_line(tmp_path, what, how, every):
    """Killed, or ended by a signal's exception: the target is the old one or the new one, and the next writer clears
    what was left.
    """
    assert killed(tmp_path, what, how, every)["count"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "raise"])
@pytest.mark.parametrize("what", ["folder", "folder-two-steps"])
def test_stopped_at_every_line(tmp_path, what, how):
    result = killed(tmp_path, what, how, 1)
    if what == "folder-two-steps" and how == "kill":
        assert result["states"]["aside o"] <= 3  # between the two renames


@pytest.mark.slow
@pytest.mark.parametrize("what", ["file", "folder"])
def test_killed_at_any_moment(tmp_path, what):
    assert killed(tmp_path, what, "random", 100)["count"] == 100
