"""Writing a folder whole or not at all, and never in the place of one that holds what is not known."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .disk import exchange, find, give_to_owner, own, sync_folder, sync_tree, take_after
from .scratch import scratch_folder


@dataclass(frozen=True)
class Known:
    """The folders of one kind, which may be replaced.

    Args:
        what: What they are, for a message.
        marker: The file without which a folder is none of them.
        names: Matches the relative path of each file that they hold; that of a folder ends in a slash.
    """

    what: str
    marker: str
    names: re.Pattern[str]


@contextmanager
def whole_folder(path: str | os.PathLike[str], known: Known) -> Iterator[Path]:
    """Give the path of a folder to make, and put that in the place of `path` at the end, so that a full disk, a crash
    or a kill leaves the old folder as it was.

    A folder that is there is replaced if it is empty or all of it is known. The new one has its permissions, group and
    owner, as far as this process may give them. Through a link, the folder that it names is replaced.

    Args:
        path: Where the folder shall be.
        known: What may be replaced.

    Raises:
        FileExistsError: If there is a folder which holds anything else; before anything is written, and at the end.
        OSError: If it cannot be written; then it is as it was.
    """
    check_replaceable(path, known)
    place, old = find(path)
    with scratch_folder(parent=place.parent) as scratch:
        if old is not None and old.st_mode & stat.S_ISGID:  # what is made inside takes its group, as in the old one
            own(scratch, old)
            os.chmod(scratch, stat.S_ISGID | 0o700)
        new = scratch / "new"
        yield new
        if old is not None:
            give_to_owner(new, old)
        sync_tree(new)
        if old is not None:  # only now: with these permissions its owner may not be able to look into it
            take_after(new, place, old)
            sync_folder(new)
        _put(new, place, known, scratch)


def check_replaceable(path: str | os.PathLike[str], known: Known) -> None:
    """Find out before the work whether `whole_folder` would refuse.

    Raises:
        FileExistsError: If the folder holds what is not known.
        NotADirectoryError: If it is no folder.
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
    """What speaks against replacing a folder: "" for nothing."""
    if os.path.ismount(place):
        return "is where a file system begins"
    with contextlib.suppress(FileNotFoundError):  # of a current folder that was removed
        if os.path.samefile(place, os.getcwd()):
            return "is the current folder"
    names = sorted(os.listdir(place))
    if names and known.marker not in names:
        return f"holds {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    strange = _strange(place, known)
    return "" if strange is None else f"also holds {strange!r}"


def _strange(folder: Path, known: Known, inside: str = "") -> str | None:
    """The first path in a folder that is not known; folders that are not known are not looked into."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        is_folder = entry.is_dir(follow_symlinks=False)
        name = inside + entry.name + ("/" if is_folder else "")
        if not known.names.fullmatch(name) or not (is_folder or entry.is_file(follow_symlinks=False)):
            return name
        if is_folder and (found := _strange(Path(entry.path), known, name)) is not None:
            return found
    return None


def _put(new: Path, place: Path, known: Known, scratch: Path) -> None:
    """Put a folder in its place, and the old one into `scratch`."""
    check_replaceable(place, known)
    if not os.path.lexists(place):
        try:
            os.rename(new, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _put(new, place, known, scratch)  # somebody else has filled the place by now
    else:
        _swap(new, place)
        try:
            check_replaceable(new, known)  # the old one, where nobody can add to it by its name any more
        except BaseException:
            _swap(new, place)
            raise
    sync_folder(scratch)
    sync_folder(place.parent)


def _swap(new: Path, place: Path) -> None:
    """Let two folders change places, in one step where the system can. In two, a kill between them leaves the old one
    beside its place, under a name that says what it is.
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
