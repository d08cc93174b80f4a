"""Temporary files and folders; those that a killed process left are removed, those of a running process are not.

Each name contains the host, and its process holds a lock (flock) on it, which the system releases however the process
ends. A free lock on a name of this host therefore means that a killed process left it. Names of other hosts stay: on a
shared file system their locks may be invisible here.
"""

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from eca_multi._printable import file_name

PLACE = "ECA_MULTI_SCRATCH"  # the environment variable that gives a harness's worker a folder inside that of its run

try:
    import fcntl
except ImportError:  # not POSIX: no locks, and nothing is cleared
    fcntl = None  # type: ignore[assignment]  # None where there is no such module


@contextlib.contextmanager
def temporary_file(folder: Path, mode: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """Give a new file and its path, and remove the file at the end if it still has that name.

    The file has the permissions `mode`, before the umask. Leavings of killed processes in the folder are removed first.
    """
    clear(folder)
    while True:
        path, lock = _new_name(folder, ".eca"), None
        with _naming(folder):
            file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115  (closed below)
        try:
            lock = _lock(path, file)
            if lock is not None:
                yield path, file
                return
        finally:
            file.close()
            with contextlib.suppress(FileNotFoundError):  # the file has been renamed
                os.unlink(path)
            if lock is not None:
                os.close(lock)


@contextlib.contextmanager
def scratch_folder(prefix: str = ".eca", parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Give a temporary folder that nobody else can enter.

    Args:
        prefix: The start of its name: ".eca", or "eca-" and letters.
        parent: Where to make the folder; None is the system's place for temporary files. Leavings there go first.
    """
    place = Path(parent or os.environ.get(PLACE) or tempfile.gettempdir())
    clear(place)
    while True:
        folder, lock = _new_name(place, prefix), None
        with _naming(place):
            os.mkdir(folder, 0o700)
        try:
            lock = _lock(folder)
            if lock is not None:
                yield folder
                return
        finally:
            _remove(folder)
            if lock is not None:
                os.close(lock)


def clear(folder: str | os.PathLike[str]) -> None:
    """Remove the files that killed processes of this user and host left in a folder; never one in use."""
    if fcntl is None:
        return
    left = re.compile(rf"(\.eca|eca-[a-z]+)-{re.escape(_host())}-[0-9a-f]{{16}}\.tmp")
    with contextlib.suppress(OSError):  # a folder may be writable and not listable
        for name in os.listdir(folder):
            if left.fullmatch(name):
                with contextlib.suppress(OSError):  # in use, gone, or on a file system without locks
                    _clear(Path(folder, name))


def _clear(path: Path) -> None:
    status = os.lstat(path)
    if status.st_uid != os.geteuid() or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            if stat.S_ISDIR(status.st_mode):
                _remove(path, attempts=2)
            else:
                os.unlink(path)
    finally:
        os.close(handle)


def _lock(path: Path, file: IO[bytes] | None = None) -> int | None:
    """Lock a new file or folder, and return the handle that holds the lock until it is closed.

    Returns None if another process has removed the file or folder, which looked like a leaving before it was locked.
    """
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    try:
        handle = os.open(path, os.O_RDONLY) if file is None else os.dup(file.fileno())
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):  # another process removes it, or has removed it
        pass
    except OSError:  # a file system without locks, on which nobody clears either
        return handle
    os.close(handle)
    return None


def _new_name(folder: Path, prefix: str) -> Path:
    return folder / f"{prefix}-{_host()}-{os.urandom(8).hex()}.tmp"


def _host() -> str:
    return file_name(socket.gethostname())[:64]


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Put the folder into an error, instead of a temporary name that nobody knows."""
    try:
        yield
    except OSError as error:
        error.filename = str(folder)
        raise


def _remove(folder: Path, attempts: int = 20) -> None:
    """Remove a folder, and try again while a thread still writes into it; a later run clears the rest."""
    for attempt in range(attempts):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        _open_up(folder)
        time.sleep(0.1 if attempt else 0)


def _open_up(folder: Path) -> None:
    """Add permissions to the folders inside, so that their files can be removed."""
    for place, names, _ in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            with contextlib.suppress(OSError):  # gone, or another user's
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
