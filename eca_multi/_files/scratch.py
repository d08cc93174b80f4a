"""Temporary files and folders: those of the living are left alone, those of the dead are cleared.

A name has the host in it, and its process holds a lock (flock) on it, which the system takes away however the process
ends. Who finds the lock free on a name of the same host has found what a killed process left. Another host's are left
alone: on a shared file system its locks may not be seen.
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

PLACE = "ECA_MULTI_SCRATCH"  # the environment variable with the folder of a harness's worker, which goes with its run

try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked, and nothing is cleared
    fcntl = None  # type: ignore[assignment]  # None where there is no such module


@contextlib.contextmanager
def temporary_file(folder: Path, mode: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """Give a new file to write to, with its path. What still has that name at the end is removed.

    Args:
        folder: Where to make it; what dead processes left there is cleared first.
        mode: Its permissions, of which the system takes off the umask.
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
            with contextlib.suppress(FileNotFoundError):  # it has been renamed
                os.unlink(path)
            if lock is not None:
                os.close(lock)


@contextlib.contextmanager
def scratch_folder(prefix: str = ".eca", parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Give a folder for a while, which nobody else can enter.

    Args:
        prefix: The start of its name: ".eca", or "eca-" and letters.
        parent: Where to make it, by default where temporary files go; what dead processes left there is cleared first.
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
    """Remove what processes of this user and host left in a folder when they were killed; never what is in use."""
    if fcntl is None:
        return
    left = re.compile(rf"(\.eca|eca-[a-z]+)-{re.escape(_host())}-[0-9a-f]{{16}}\.tmp")
    with contextlib.suppress(OSError):  # a folder that cannot be listed can be written to all the same
        for name in os.listdir(folder):
            if left.fullmatch(name):
                with contextlib.suppress(OSError):  # in use, gone, or of a file system without locks
                    _clear(Path(folder, name))


def _clear(path: Path) -> None:
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            if stat.S_ISDIR(found.st_mode):
                _remove(path, attempts=2)
            else:
                os.unlink(path)
    finally:
        os.close(handle)


def _lock(path: Path, file: IO[bytes] | None = None) -> int | None:
    """Lock what was just made.

    Returns:
        A handle, which holds the lock until it is closed; None where who clears was faster, and took it away.
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
    except (BlockingIOError, FileNotFoundError):  # it is being cleared, or was
        pass
    except OSError:  # a file system without locks: there nobody clears either
        return handle
    os.close(handle)
    return None


def _new_name(folder: Path, prefix: str) -> Path:
    return folder / f"{prefix}-{_host()}-{os.urandom(8).hex()}.tmp"


def _host() -> str:
    return file_name(socket.gethostname())[:64]


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Name the folder in an error, not a temporary name in it that nobody knows."""
    try:
        yield
    except OSError as error:
        error.filename = str(folder)
        raise


def _remove(folder: Path, attempts: int = 20) -> None:
    """Remove a folder. What a thread still writes into it is waited for; what stays all the same is cleared later."""
    for attempt in range(attempts):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        _open_up(folder)
        time.sleep(0.1 if attempt else 0)


def _open_up(folder: Path) -> None:
    """Let what lies in folders without permissions be removed."""
    for place, names, _ in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            with contextlib.suppress(OSError):  # gone, or another user's
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
