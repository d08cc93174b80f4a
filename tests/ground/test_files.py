"""The one writer of files and the one of folders: whole or not at all, and nothing lost that is not known."""

import ast
import contextlib
import errno
import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from eca_multi._files import disk as _disk
from eca_multi._files import folder as _folders
from eca_multi._files import scratch as _scratch
from eca_multi._files.file import whole_file, write_atomically
from eca_multi._files.folder import Known, check_replaceable, whole_folder
from eca_multi._files.scratch import scratch_folder
from eca_multi.checkpoints import ORBAX
from tests.support.files_killed import state

SCRIPT = Path(__file__).parents[1].joinpath("support", "files_killed.py")
KNOWN = Known("a folder of this test", "a", re.compile("[abc]|inner/|inner/[ab]"))
GROUP = 2 if os.geteuid() == 0 else os.getegid()  # another one where that can be given
WRITERS = ("file", "folder")


def write(path, what, text="new"):
    """What a writer writes: a file, or a folder with two files."""
    if what == "file":
        write_atomically(path, text.encode())
        return
    with whole_folder(path, KNOWN) as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "a").write_text(text)
        (folder / "inner" / "b").write_text(text)


def content(path):
    if path.is_file():
        return path.read_text()
    texts = {file.read_text() for file in path.rglob("*") if file.is_file()}
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*")) == ["a", "inner", "inner/b"]
    return "".join(texts)


def snapshot(folder):
    """All that is in a folder, by inode, permissions and content."""
    return {
        path: (found.st_ino, found.st_mode, found.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
        for found in [os.lstat(path)]
    }


@contextlib.contextmanager
def umask(mask):
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


# --- what a folder holds is not lost -------------------------------------------------------------------------------


def an_orbax_checkpoint(folder):
    for name in ("_METADATA", "_CHECKPOINT_METADATA", "_sharding", "commit_success.txt", "manifest.ocdbt"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("d", "ocdbt.process_0/d", "array_metadatas"):
        (folder / name).mkdir(parents=True)
    (folder / "d" / ("0" * 32)).write_text("")
    (folder / "ocdbt.process_0" / "manifest.ocdbt").write_text("")
    (folder / "ocdbt.process_0" / "d" / ("f" * 32)).write_text("")
    (folder / "array_metadatas" / "process_0").write_text("")
    (folder / "eca_multi.json").write_text("{}")


STRANGE = {
    "train.py": lambda folder: (folder / "train.py").write_text("mine"),
    ".git/": lambda folder: (folder / ".git").mkdir(),
    "d/notes.txt": lambda folder: (folder / "d" / "notes.txt").write_text("mine"),
    "d/00/": lambda folder: (folder / "d" / "00").mkdir(),
    "default/": lambda folder: (folder / "default").mkdir(),  # a second tree, of a step of CheckpointManager
    "kernel/": lambda folder: (folder / "kernel").mkdir(),  # an array in orbax's older layout, or anybody's folder
    "_sharding": lambda folder: ((folder / "_sharding").unlink(), (folder / "_sharding").symlink_to("/etc/hostname")),
    "d": lambda folder: ((folder / "d").rename(folder.parent / "d"), (folder / "d").symlink_to(folder.parent / "d")),
    "manifest.ocdbt/": lambda folder: ((folder / "manifest.ocdbt").unlink(), (folder / "manifest.ocdbt").mkdir()),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_checkpoint_with_anything_else_beside_it_is_not_replaced(tmp_path, name):
    folder = tmp_path / "checkpoint"
    an_orbax_checkpoint(folder)
    check_replaceable(folder, ORBAX)  # the control: without the strange one it would be
    STRANGE[name](folder)
    before = snapshot(tmp_path)
    match = f"checkpoint of orbax.*Received: .*also holds {name!r}.*Name another"
    with pytest.raises(FileExistsError, match=match), whole_folder(folder, ORBAX):
        pytest.fail("it is refused before the work")
    assert snapshot(tmp_path) == before


def test_a_folder_of_anything_else_is_not_replaced(tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "a.txt").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    before = snapshot(tmp_path)
    for name in ("mine", "link", "link/", "mine/../mine"):
        with pytest.raises(FileExistsError, match=r"which holds 'a\.txt' and 1 more"):
            write(f"{tmp_path}/{name}", "folder")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        write(tmp_path / "mine" / "a.txt", "folder")
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        write(tmp_path / "mine", "file")
    assert snapshot(tmp_path) == before


def test_the_current_folder_and_a_file_system_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", tmp_path / "here"):
        with pytest.raises(FileExistsError, match="which is the current folder"):
            write(name, "folder")
    with pytest.raises(FileExistsError, match="which is where a file system begins"):
        write("/", "folder")


@pytest.mark.parametrize("at_once", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("when", ["in the work", "at the exchange"])
def test_what_comes_into_the_folder_meanwhile_is_kept(tmp_path, monkeypatch, when, at_once):
    place = tmp_path / "folder"
    write(place, "folder", "old")
    exchange = _folders.exchange if at_once else lambda one, other: False
    swapped = []

    def late(one, other):
        if when == "at the exchange" and not swapped:
            (place / "mine").write_text("mine")
        swapped.append(one)
        return exchange(one, other)

    monkeypatch.setattr(_folders, "exchange", late)
    if when == "in the work":
        monkeypatch.setattr(_folders, "sync_tree", lambda folder: (place / "mine").write_text("mine"))
    with pytest.raises(FileExistsError, match="also holds 'mine'"):
        write(place, "folder")
    assert len(swapped) == (2 if when == "at the exchange" else 0)  # there and back
    assert (place / "mine").read_text() == "mine"
    (place / "mine").unlink()
    assert content(place) == "old"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("there", ["nothing", "empty", "known"])
def test_what_a_folder_is_written_over(tmp_path, there):
    if there != "nothing":
        (tmp_path / "folder").mkdir()
    if there == "known":
        (tmp_path / "folder" / "a").write_text("old")
        (tmp_path / "folder" / "c").write_text("old")
    write(tmp_path / "folder", "folder")
    assert content(tmp_path / "folder") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# --- links, permissions, groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("mode", [0o700, 0o2750, 0o1777, 0o740])
def test_permissions_and_group_are_kept(tmp_path, what, mode):
    place = tmp_path / "target"
    write(place, what, "old")
    os.chown(place, -1, GROUP)
    os.chmod(place, mode)
    with umask(0o077):
        write(place, what)
    found = os.stat(place)
    os.chmod(place, 0o700)
    assert content(place) == "new"
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, GROUP)
    if what == "folder" and mode & stat.S_ISGID:  # what is inside is the group's as well
        assert {os.stat(path).st_gid for path in place.rglob("*")} == {GROUP}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes as somebody else")
@pytest.mark.parametrize("what", WRITERS)
def test_what_root_writes_over_stays_the_users(tmp_path, what):
    write(tmp_path / "target", what, "old")
    os.chown(tmp_path / "target", 65534, -1)
    write(tmp_path / "target", what)
    owners = {os.stat(path).st_uid for path in (tmp_path / "target", *(tmp_path / "target").rglob("*"))}
    assert owners == {65534}


@pytest.mark.parametrize(("mode", "kept"), [(0o664, 0o644), (0o2770, 0o700), (0o4754, 0o744), (0o604, 0o600)])
def test_where_the_group_cannot_be_kept_nobody_gets_more(tmp_path, monkeypatch, mode, kept):
    def refuse(*args, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    (tmp_path / "new").write_text("")
    old = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, os.getuid() + 1, os.getgid() + 1, 0, 0, 0, 0))
    monkeypatch.setattr("os.chown", refuse)
    _disk.take_after(tmp_path / "new", tmp_path / "none", old)
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == kept


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps them so")
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("what", WRITERS)
def test_access_control_lists_are_kept(tmp_path, monkeypatch, what, kept):
    """With one the bits for the group are a mask: without it the group would get what one user of it had."""
    everybody, one = 0xFFFFFFFF, 65534
    entries = [(1, 7, everybody), (2, 6, one), (4, 0, everybody), (16, 6, everybody), (32, 0, everybody)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    write(tmp_path / "target", what, "old")
    try:
        os.setxattr(tmp_path / "target", "system.posix_acl_access", value)
    except OSError:
        pytest.skip("this file system has none")
    assert stat.S_IMODE(os.stat(tmp_path / "target").st_mode) == 0o760
    if not kept:
        monkeypatch.setattr("os.setxattr", lambda *args: os.stat(tmp_path / "none"))
    write(tmp_path / "target", what)
    assert stat.S_IMODE(os.stat(tmp_path / "target").st_mode) == (0o760 if kept else 0o700)
    names = [name for name in os.listxattr(tmp_path / "target") if "acl" in name]
    assert names == (["system.posix_acl_access"] if kept else [])


@pytest.mark.parametrize("what", WRITERS)
def test_while_it_is_written_only_its_owner_sees_what_others_may_not(tmp_path, what):
    place = tmp_path / "target"
    write(place, what, "old")
    os.chmod(place, 0o700)
    with whole_file(place) if what == "file" else whole_folder(place, KNOWN) as made:
        (beside,) = set(tmp_path.iterdir()) - {place}
        assert stat.S_IMODE(os.stat(beside).st_mode) & 0o077 == 0
        if what == "folder":
            made.mkdir()


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_what_is_new_gets_what_any_other_would(tmp_path, monkeypatch, what, mask):
    """The process's umask is never changed: another thread may make a file in that moment."""
    with umask(mask):
        with monkeypatch.context() as patch:
            patch.setattr("os.umask", lambda mask: pytest.fail("the umask is the whole process's"))
            write(tmp_path / "target", what)
        (tmp_path / "other").mkdir() if what == "folder" else (tmp_path / "other").write_text("")
    assert os.stat(tmp_path / "target").st_mode == os.stat(tmp_path / "other").st_mode


@pytest.mark.parametrize("what", WRITERS)
def test_links_stay_links(tmp_path, what):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/target")
    (tmp_path / "second").symlink_to("link")
    for text in ("first", "second"):  # at first it leads to nothing
        write(tmp_path / "second", what, text)
        assert content(tmp_path / "there" / "target") == text
    assert os.readlink(tmp_path / "second") == "link"
    assert os.readlink(tmp_path / "link") == "there/target"
    assert len(list(tmp_path.rglob("*"))) == (4 if what == "file" else 7)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write(tmp_path / "loop", what)


# --- what fails midway ---------------------------------------------------------------------------------------------

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


# --- kills ---------------------------------------------------------------------------------------------------------


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


# --- what the dead leave, and what the living use ------------------------------------------------------------------

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


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if ".tmp" in path.name)


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


# --- the disk ------------------------------------------------------------------------------------------------------


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


# --- paths of every kind -------------------------------------------------------------------------------------------


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
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
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


# --- nobody else writes --------------------------------------------------------------------------------------------

# By file, what it may call of what makes, moves and removes files, as it does nothing else, or writes into a folder
# that is put in its place as a whole, or goes with the run.
ALLOWED = {
    "_files/disk.py": {"os.chmod", "os.chown"},
    "_files/file.py": {"os.replace"},
    "_files/folder.py": {"os.chmod", "os.rename"},
    "_files/scratch.py": {"os.chmod", "os.mkdir", "os.unlink", "shutil.rmtree"},
    "_pytest_plugin.py": {"mkdir", "write_text"},  # the folder of reports, which is asked for; the run's own folder
    "flax/_checkpoint_files.py": {"write_text"},  # into the folder that is being written
    "parity/explain/bundle.py": {
        "mkdir"
    },  # the folder of bundles, which is asked for, and the one that is being written
    "parity/engines/jax.py": {"savez"},  # into memory
    "parity/execute/process.py": {"mkdir"},  # in the run's own folder
}
WRITING = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "mkdtemp",
    "mkstemp",
    "TemporaryDirectory",
    "TemporaryFile",
}
WRITING |= {"NamedTemporaryFile", "SpooledTemporaryFile", "rmtree", "copytree", "copyfile", "umask", "savez", "rmdir"}
OF_OS = {f"os.{name}" for name in ("replace", "rename", "renames", "remove", "unlink", "chmod", "chown", "truncate")}


def calls_that_write(text):
    if not any(name.removeprefix("os.") in text for name in WRITING | OF_OS):  # most files, which need not be parsed
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in OF_OS or name.rpartition(".")[2] in WRITING:
                yield name if name.startswith(("os.", "shutil.")) else name.rpartition(".")[2]


def test_nothing_in_the_package_writes_but_by_the_writers():
    root = Path(_disk.__file__).parents[1]
    found = {file.relative_to(root).as_posix(): set(calls_that_write(file.read_text())) for file in root.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == ALLOWED
