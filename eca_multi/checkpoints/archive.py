"""Zip archives of torch and Keras. Both write members uncompressed, so a member is a contiguous part of the file."""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from .source import Source

_HEADER = 30  # bytes before a member's name


@contextmanager
def open_archive(source: Source) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members do not overlap.

    Raises:
        Exception: Whatever zipfile raises for a broken archive.
    """
    source.file.seek(0)
    with zipfile.ZipFile(source.file) as archive:
        stored = sum(entry.compress_size for entry in archive.infolist())
        if stored > source.size:  # reading all members would take far longer than reading the file
            raise zipfile.BadZipFile("members that overlap")
        yield archive


def place_of(source: Source, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where the bytes of a member start and end, after a check of its checksum.

    Raises zipfile.BadZipFile if the member is compressed or incomplete, or has another checksum.
    """
    if entry.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{entry.filename} is compressed, which neither torch nor Keras does")
    if entry.CRC:  # torch has an option to write no checksums
        with archive.open(entry) as member:
            while member.read(1 << 20):  # zipfile compares the checksum at the end
                pass
    lengths = struct.unpack("<HH", source.read(entry.header_offset + _HEADER - 4, 4))  # of the name and the extras
    start = entry.header_offset + _HEADER + sum(lengths)
    if start + entry.file_size > source.size:
        raise zipfile.BadZipFile(f"{entry.filename} ends behind the end of the file")
    return start, start + entry.file_size
