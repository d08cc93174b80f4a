"""Write a file whole or not at all; `folder.py` does the same for a folder."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from .disk import find, sync_folder, take_after
from .scratch import temporary_file

# Names of open files. A rename would put a new file in the place of one that a shell has opened, such as a log.
_OPENED = ("/dev/fd/", "/dev/std", "/proc/")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a temporary file beside `path`, and rename it to `path` at the end: a full disk, a crash or a kill leaves
    the old file.

    The new file has the old one's permissions, group and owner, as far as this process may give them. A link stays, and
    its target is replaced. A pipe or a device such as /dev/null is written to directly, because a rename would put a
    file in its place; an open file such as /dev/stdout gets the data at its end.

    Raises:
        OSError: If the file cannot be written; the old one then stays.
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
    """Whether a path is the name of an open file, or a link to one: a log is often a link to /dev/stdout."""
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
