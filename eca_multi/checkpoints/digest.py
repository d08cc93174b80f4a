"""Compute the sha256 of a file or a folder."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

_PIECE = 1 << 22


def sha256_of(path: str | os.PathLike[str], tell: Callable[[int, int], None]) -> str:
    """Return the sha256 of a file, or of the relative name, size and bytes of each file in a folder, sorted by name.

    Args:
        path: The file or the folder.
        tell: Called with the number of bytes done and the number of all bytes.
    """
    place = Path(path)
    folder = place.is_dir()
    files = sorted(file for file in place.rglob("*") if file.is_file()) if folder else [place]
    total = sum(file.stat().st_size for file in files)
    done, digest = 0, sha256()
    tell(0, total)
    for file in files:
        if folder:
            digest.update(f"{file.relative_to(place).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                tell(done, total)
    return digest.hexdigest()
