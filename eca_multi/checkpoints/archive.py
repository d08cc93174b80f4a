"""Zip archives, which torch and Keras write uncompressed: their members are stretches of the file."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from .source import Source

_HEADER = 30  # bytes before a member's name


@contextmanager
def open_archive(source: Source) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members do not lie on top of each other.

    Raises:
        Exception: Whatever zipfile raises of a broken one.
    """
    source.file.seek(0)
    with zipfile.ZipFile(source.file) as archive:
        stored = sum(entry.compress_size for entry in archive.infolist())
        if stored > source.size:  # reading each once would take far longer than the file is long
            raise zipfile.BadZipFile("members that overlap")
        yield archive


def place_of(source: Source, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where the bytes of a member start and end, after its checksum was compared.

    Raises:
        zipfile.BadZipFile: If it is compressed, or its bytes are not all there, or not those of the checksum.
    """
    if entry.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{entry.filename} is compressed, which neither torch nor Keras does")
    if entry.CRC:  # torch can be told to write none
        with archive.open(entry) as member:
            while member.read(1 << 20):  # to the end: that is where it is compared
                pass
    lengths = source.read(entry.header_offset + _HEADER - 4, 4)
    start = (
        entry.header_offset + _HEADER + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    )
    if start + entry.file_size > source.size:
        raise zipfile.BadZipFile(f"{entry.filename} ends behind the end of the file")
    return start, start + entry.file_size
