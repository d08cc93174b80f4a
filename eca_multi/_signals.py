"""Turn the signals that end a command into an exception, so that every `finally` runs before the process ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_AGAIN = 0.01  # seconds until a signal is sent again whose exception was lost


class Ended(BaseException):
    """A signal to end the command. It is no Exception and no KeyboardInterrupt, so that no library handles it.

    Attributes:
        status: 128 plus the signal's number, the exit status that a shell gives.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.status = 128 + number


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Raise `Ended` in the main thread at SIGINT, SIGTERM, SIGHUP or SIGQUIT; for a command, never for a library.

    A signal that the process was started to ignore stays ignored, as nohup needs. After a first signal, the others are
    ignored during the clean-up, except Ctrl-C, which ends the clean-up too. Python drops an exception in a `__del__` or
    in a callback of its garbage collector: the signal is then sent again a moment later. If a library drops the
    exception, the end of the block raises `Ended`.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    old = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number in numbers if old[number] not in (signal.SIG_IGN, None)]  # None: a handler in C
    came: list[int] = []
    report = sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for other in mine:
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_IGN)
        raise Ended(number)

    def end_again(lost: Any) -> None:
        if not isinstance(lost.exc_value, Ended):
            report(lost)
            return
        number = lost.exc_value.number
        signal.signal(number, end)
        threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()

    for number in mine:
        signal.signal(number, end)
    sys.unraisablehook = end_again
    try:
        yield
    except Ended:
        raise
    except BaseException:  # SystemExit too, which carries a command's exit status
        if came:
            raise Ended(came[0]) from None
        raise
    else:
        if came:
            raise Ended(came[0])
    finally:
        sys.unraisablehook = report
        for number in mine:
            signal.signal(number, old[number])
