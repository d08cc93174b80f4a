"""Standard output and error of a command: what cannot be printed never decides how the command ends."""

import errno
import io
import os
import select
import sys
from typing import Any

UNPRINTED = 3  # exit status of a command that did its work, and could not show it


class Output:
    """How printing went.

    Attributes:
        failure: The first error of standard output; None where all was printed.
    """

    failure: OSError | None = None

    def status(self, own: int) -> int:
        """Return the exit status of a command whose own is given, and say on standard error what was lost.

        A reader that has gone, as `head` does, has what it wanted: that is no failure.
        """
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return own
        print(f"The output could not be printed: {self.failure}", file=sys.stderr)
        return own or UNPRINTED


class _Stream(io.RawIOBase):
    """A file descriptor that takes everything: from its first error on, it drops what it is given."""

    def __init__(self, descriptor: int, output: Output) -> None:
        self._descriptor, self._output, self._dropping = descriptor, output, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while not self._dropping:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # whoever shares the terminal or pipe with us has made it so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._dropping, self._output.failure = True, error
        return len(data)


def steady_output() -> Output:
    """Let this process print from now on without ever failing for it; for a command, never for a library.

    What an encoding cannot write is written as in Python, backslash and number. A descriptor that was closed is opened
    on the null device: a file or pipe of ours that took its number would get what others print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(descriptor, True)
    output = Output()
    sys.stdout = _steady(sys.stdout, sys.__stdout__, output)
    sys.stderr = _steady(sys.stderr, sys.__stderr__, Output())  # there is nowhere to say that it failed
    return output


def _steady(stream: Any, original: Any, output: Output) -> Any:
    """The stream that takes everything; what somebody else put in its place, a test say, stays as it is."""
    if stream is None:
        return open(os.devnull, "w")
    if stream is not original:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(stream.fileno(), output)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
