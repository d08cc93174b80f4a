"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` beside `path` and rename it, so that a full disk or a crash leaves the old file as it was.

    A pipe or a device, /dev/null say, is written to: a rename would put a file in its place.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    path = Path(os.path.realpath(path))  # through a link, the file that it names is written
    handle, temporary = tempfile.mkstemp(prefix=".eca-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
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
