"""Read a part of a file from front to back, as parsers do."""

from .source import Source

_WINDOW = 1 << 16  # bytes of the buffer, and the longest line


class Stream:
    """The bytes of a file between `start` and `end`; memory is never allocated for more bytes than the file has."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._end = source, end
        self._start, self._buffer, self._place = start, b"", 0

    def tell(self) -> int:
        return self._start + self._place

    def read(self, count: int) -> bytes:
        self._fill(count)
        data = self._buffer[self._place : self._place + count]
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        self._fill(_WINDOW)
        end = self._buffer.find(b"\n", self._place)
        return self.read((end + 1 if end >= 0 else len(self._buffer)) - self._place)

    def skip(self, count: int) -> None:
        self._place += count

    def _fill(self, count: int) -> None:
        """Read the next `count` bytes into the buffer, or as many as the file has."""
        if self._place + count > len(self._buffer):
            self._start, self._place = self.tell(), 0
            wanted = max(min(max(count, _WINDOW), self._end - self._start), 0)
            self._buffer = self._source.read(self._start, wanted)
