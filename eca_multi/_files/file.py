"""Writing a file whole or not at all; `_folders` does the same for a folder."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from .disk import find, sync_folder, take_after
from .scratch import temporary_file

# Names of what is open already. A rename would put a new file in the place of what a shell has opened, a log say.
_OPENED = ("/dev/fd/", "/dev/std", "/proc/")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a file beside `path` to write to, and rename it at the end, so that a full disk, a crash or a kill leaves
    the old file as it was.

    The new file has the old one's permissions, group and owner, as far as this process may give them. Through a link,
    the file that it names is written. A pipe or a device, /dev/null say, is written to: a rename would put a file in
    its place; and what is open already, /dev/stdout say, is added to.

    Raises:
        OSError: If it cannot be written; then it is as it was.
    """
    place, old = find(path)
    plain = old is None or stat.S_ISREG(old.st_mode)
    if not plain or _is_opened(path):
        with open(path, "ab" if plain else "wb") as file:
            yield file
        return
    with temporary_file(place.parent, 0o666 if old is None else 0o600) as (temporary, file):
        with file:
            yield file
            file.flush()
            _, old = find(place)
            if old is not None:
                take_after(temporary, place, old)
            os.fsync(file.fileno())
        os.replace(temporary, place)
    sync_folder(place.parent)


def _is_opened(path: str | os.PathLike[str]) -> bool:
    """Whether a path is, or leads through links to, the name of what is open: a log is often a link to /dev/stdout."""
    place = os.fsdecode(path)
    for _ in range(40):  # as many links as the system follows
        place = re.sub("^//+", "/", os.path.abspath(place))
        if place.startswith(_OPENED):
            return True
        try:
            place = os.path.join(os.path.dirname(place), os.readlink(place))
        except OSError:  # no link
            return False
    return False
