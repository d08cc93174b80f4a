"""Compute the sha256 and the size of a file or a folder."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

_PIECE = 1 << 22


def sha256_of(path: str | os.PathLike[str], tell: Callable[[int, int], None]) -> str:
    """Return the sha256 of a file, or of the relative name, size and bytes of each file in a folder, sorted by name.

    `tell` is called with the number of bytes done and the number of all bytes.
    """
    place = Path(path)
    done, total, digest = 0, size_of(place), sha256()
    tell(0, total)
    for file in _files(place):
        if file != place:
            digest.update(f"{file.relative_to(place).as_posix()}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                tell(done, total)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
