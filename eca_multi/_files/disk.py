"""The file system for the writers: follow paths, exchange names in one step, keep permissions, wait for the disk."""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_HERE = -100  # AT_FDCWD: a relative path starts at the current folder
_EXCHANGE = 2  # RENAME_EXCHANGE
# The kernel or the file system does not have the call; some sandboxes answer EPERM to a call that they do not know.
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
# The folder cannot be synchronised, or not be opened for it: its files are written, if not yet on the disk.
_UNSYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


def find(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """Return the place to which a path leads through all links, and its status; None if nothing is there."""
    name = os.fsdecode(path)
    if not name:  # for os.path.realpath it is the current folder
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    place = Path(os.path.realpath(name))
    try:
        return place, os.stat(place)
    except FileNotFoundError:
        return place, None


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step, so that nobody ever sees one of them missing.

    Returns False if the system or the file system has no such call; raises OSError if the system refused.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # a C library without it
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def take_after(new: Path, place: Path, old: os.stat_result) -> None:
    """Give a new file or folder the owner, group and permissions of the old one at `place`, and nobody more rights."""
    mode = stat.S_IMODE(old.st_mode)
    if not give_owner(new, old):
        mode &= ~stat.S_ISUID
    if os.stat(new).st_gid != old.st_gid or not _copy_lists(place, new):
        both = mode >> 3 & mode & 0o007  # only what the old group and everybody else could do
        mode = mode & ~(stat.S_ISGID | 0o077) | both << 3 | both
    if stat.S_IMODE(os.stat(new).st_mode) != mode:
        os.chmod(new, mode)


def give_owner(new: Path, old: os.stat_result) -> bool:
    """Give a new file or folder the owner and the group of the old one; return whether both could be given."""
    now = os.stat(new)
    if (now.st_uid, now.st_gid) == (old.st_uid, old.st_gid):
        return True
    try:
        os.chown(new, old.st_uid, old.st_gid)
    except OSError:  # only root may give away
        with contextlib.suppress(OSError):  # not a group of this user's
            os.chown(new, -1, old.st_gid)
        return False
    return True


def _copy_lists(place: Path, new: Path) -> bool:
    """Copy access control lists, which change the meaning of the group's bits; return False if that fails."""
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        try:
            value = os.getxattr(place, name)
        except (AttributeError, OSError):  # a system, a file system or a file without them
            continue
        try:
            os.setxattr(new, name, value)
        except OSError:
            return False
    return True


def give_to_owner(folder: Path, old: os.stat_result) -> None:
    """Give what root has written into a user's folder to that user."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and old.st_uid != 0:
        for path in tree(folder):
            with contextlib.suppress(OSError):  # root of a container, or of another machine, may not
                os.chown(path, old.st_uid, -1)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the names in a folder are on the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


def sync_tree(folder: str | os.PathLike[str]) -> None:
    """Wait until everything in a folder is on the disk."""
    for path in tree(folder):
        if os.path.isdir(path):
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def tree(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the paths of everything in a folder and then its own; the inside of each folder comes first."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            yield os.path.join(place, name)
        yield place
