"""Nothing is lost that the writers do not know; links, permissions and groups are kept."""

import errno
import os
import stat
import struct
import sys

import pytest

from eca_multi._files import disk as _disk
from eca_multi._files import folder as _folders
from eca_multi._files.file import whole_file
from eca_multi._files.folder import check_replaceable, whole_folder
from eca_multi.checkpoints.orbax import ORBAX
from tests.support.writing import GROUP, KNOWN, WRITERS, content, snapshot, umask, write

# --- what a folder holds is not lost ---------------------------------------------------------------------------------


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


# --- links, permissions, groups --------------------------------------------------------------------------------------


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
