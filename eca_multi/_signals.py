"""The signals that end a command, as an exception: what stands in a `finally` is done before the process is gone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


class Ended(BaseException):
    """A signal asked for the end. Neither Exception nor KeyboardInterrupt: nothing takes it for a failure of its own.

    Attributes:
        status: 128 plus the signal's number, the exit status that a shell gives.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Raise `Ended` in the main thread at SIGINT, SIGTERM, SIGHUP or SIGQUIT; for a command, never for a library.

    A signal that the process was started to ignore stays ignored, as nohup wants it. Once one has come, the others
    are ignored while things are cleared up, but for Ctrl-C, which ends that too.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    old = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number in numbers if old[number] not in (signal.SIG_IGN, None)]  # None: set by C code

    def end(number: int, frame: FrameType | None) -> None:
        for other in mine:
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_IGN)
        raise Ended(number)

    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, old[number])
