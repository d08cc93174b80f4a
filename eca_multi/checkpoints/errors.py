"""The error of a checkpoint that cannot be used, and the one text for a file that cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager

from eca_multi._parsing import parsing
from eca_multi._printable import PrintableError

from .compare import Report


class CheckpointError(PrintableError, ValueError):
    """A checkpoint that cannot be read or that fits no network.

    Attributes:
        report: Every tensor of the comparison with the nearest network; None if the file was never compared.
    """

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@contextmanager
def reading(what: str, remedy: str, name: str, fault: str = "") -> Iterator[None]:
    """Turn whatever a parser raises into a CheckpointError that names the file; a CheckpointError passes unchanged.

    `what` is the kind of file that was expected; `fault` stands in front of the parser's reason.
    """

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"path must name a complete {what}. Received: {name!r} ({fault}{reason}). {remedy}")

    with parsing(refuse, CheckpointError):
        yield
