"""Write a folder whole or not at all, and never replace a folder with unknown files."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .disk import exchange, find, give_owner, give_to_owner, sync_folder, sync_tree, take_after
from .scratch import scratch_folder


@dataclass(frozen=True)
class Known:
    """A kind of folder that may be replaced.

    Args:
        what: The kind, for a message.
        marker: The file that each folder of this kind has.
        names: Matches the relative path of each file in such a folder; the path of a folder ends in a slash.
    """

    what: str
    marker: str
    names: re.Pattern[str]


@contextmanager
def whole_folder(path: str | os.PathLike[str], known: Known) -> Iterator[Path]:
    """Give the path of a temporary folder to make, and move it to `path` at the end: a full disk, a crash or a kill
    leaves the old folder.

    An old folder is replaced if it is empty or everything in it is known. The new one has its permissions, group and
    owner, as far as this process may give them. A link stays, and its target is replaced.

    Args:
        path: The folder to write.
        known: The kind of folder that may be replaced.

    Raises:
        FileExistsError: If the old folder holds anything else; checked before the work and at the end.
        OSError: If the folder cannot be written; the old one then stays.
    """
    check_replaceable(path, known)
    place, old = find(path)
    with scratch_folder(parent=place.parent) as scratch:
        if old is not None and old.st_mode & stat.S_ISGID:  # files in the new folder then get the group of the old one
            give_owner(scratch, old)
            os.chmod(scratch, stat.S_ISGID | 0o700)
        new = scratch / "new"
        yield new
        if old is not None:
            give_to_owner(new, old)
        sync_tree(new)
        if old is not None:  # last, because these permissions may keep even the owner from reading it
            take_after(new, place, old)
            sync_folder(new)
        _move_into_place(new, place, known, scratch)


def check_replaceable(path: str | os.PathLike[str], known: Known) -> None:
    """Find out before the work whether `whole_folder` would refuse to replace a folder.

    Raises FileExistsError if the folder holds an unknown file, or NotADirectoryError if the path names no folder.
    """
    place, old = find(path)
    if old is None:
        return
    if not stat.S_ISDIR(old.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
    reason = _reason(place, known)
    if reason:
        raise FileExistsError(
            f"path must name a new folder, an empty one, or {known.what}, which is replaced. "
            f"Received: {os.fsdecode(path)!r}, which {reason}. Nothing in it was changed. Name another folder, or move "
            "away what it holds."
        )


def _reason(place: Path, known: Known) -> str:
    """Return the reason not to replace a folder; "" without one."""
    if os.path.ismount(place):
        return "is where a file system begins"
    with contextlib.suppress(FileNotFoundError):  # the current folder was removed
        if os.path.samefile(place, os.getcwd()):
            return "is the current folder"
    names = sorted(os.listdir(place))
    if names and known.marker not in names:
        return f"holds {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    strange = _strange(place, known)
    return "" if strange is None else f"also holds {strange!r}"


def _strange(folder: Path, known: Known, inside: str = "") -> str | None:
    """Return the first unknown path in a folder; None without one. The search does not enter unknown folders."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        is_folder = entry.is_dir(follow_symlinks=False)
        name = inside + entry.name + ("/" if is_folder else "")
        if not known.names.fullmatch(name) or not (is_folder or entry.is_file(follow_symlinks=False)):
            return name
        if is_folder and (strange := _strange(Path(entry.path), known, name)) is not None:
            return strange
    return None


def _move_into_place(new: Path, place: Path, known: Known, scratch: Path) -> None:
    """Move a new folder to its place, and an old one into `scratch`."""
    check_replaceable(place, known)
    if not os.path.lexists(place):
        try:
            os.rename(new, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _move_into_place(new, place, known, scratch)  # another process has filled the place by now
    else:
        _swap(new, place)
        try:
            check_replaceable(new, known)  # the old folder, to which nobody can add by its name any more
        except BaseException:
            _swap(new, place)
            raise
    sync_folder(scratch)
    sync_folder(place.parent)


def _swap(new: Path, place: Path) -> None:
    """Exchange two folders, in one step if the system can. A kill between two steps leaves the old folder beside its
    place, as NAME.old-....
    """
    if exchange(new, place):
        return
    start = os.fsdecode(os.fsencode(place.name)[:200])  # of the 255 bytes that a name may have
    old = place.with_name(f"{start}.old-{os.urandom(8).hex()}")
    os.rename(place, old)
    try:
        os.rename(new, place)
    except BaseException as error:
        try:
            os.rename(old, place)
        except OSError as second:
            raise OSError(
                f"path could not be replaced ({error}), nor be put back ({second}). The old folder is whole: it is "
                f"{str(old)!r} now. Rename it to {str(place)!r}."
            ) from error
        raise
    os.rename(old, new)
