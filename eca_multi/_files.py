"""Writing a file whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` as `whole_file` does."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a file beside `path` to write to, and rename it at the end, so that a full disk or a crash leaves the old
    file as it was.

    A pipe or a device, /dev/null say, is written to: a rename would put a file in its place.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))  # through a link, the file that it names is written
    handle, temporary = tempfile.mkstemp(prefix=".eca-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """mkstemp makes files that only their owner can read; a new file gets what any other would."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
