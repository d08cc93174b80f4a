"""Standard output and error of a command: a failure to print never changes the command's verdict."""

import errno
import io
import os
import select
import sys
from typing import Any

UNPRINTED = 3  # exit status of a command that succeeded and could not print


class Output:
    """The state of standard output: `failure` is its first error; None without one."""

    failure: OSError | None = None

    def status(self, command: int) -> int:
        """Return the exit status of a command with status `command`, and report an error on standard error.

        A reader such as `head` closes the pipe when it has enough: that is no failure.
        """
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return command
        print(f"The output could not be printed: {self.failure}", file=sys.stderr)
        return command or UNPRINTED


class _Stream(io.RawIOBase):
    """A file descriptor that accepts every write; after its first error it drops the data."""

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
            except BlockingIOError:  # another process that shares the terminal or pipe made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._dropping, self._output.failure = True, error
        return len(data)


def steady_output() -> Output:
    """Make printing in this process never raise; for a command, never for a library.

    A character that the encoding lacks is printed as in Python, backslash and number. A closed descriptor is opened on
    the null device: otherwise a file or pipe of ours would get its number, and with it the output of others.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    output = Output()
    sys.stdout = _steady(sys.stdout, sys.__stdout__, output)
    sys.stderr = _steady(sys.stderr, sys.__stderr__, Output())  # its own failure cannot be reported anywhere
    return output


def _steady(stream: Any, original: Any, output: Output) -> Any:
    """Return a stream that accepts every write; a stream that a test has put in the place of the original stays."""
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
