"""From errors to exit statuses: one line for a mistake of the user, a traceback for a fault of ours."""

import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn, TypeVar

import typer

from eca_multi._errors import NotInstalled
from eca_multi._printable import printable
from eca_multi._signals import Ended
from eca_multi._terminal import say

T = TypeVar("T")


def wrong(text: str, option: str | None = None) -> typer.BadParameter:
    return typer.BadParameter(printable(text, lines=True), param_hint=option)


def guard(work: Callable[[ModuleType], T]) -> T:
    """Call `work` with the harness. A mistake of the user is one line and status 2; a fault of ours is status 3."""
    try:
        return _with_harness(work)
    except (typer.Exit, typer.BadParameter):
        raise
    except (KeyboardInterrupt, Ended) as error:
        say("Interrupted; the workers have been ended.", err=True)
        if isinstance(error, Ended):
            raise
        raise typer.Exit(130) from None
    except OSError as error:
        say(f"The run could not go on: {error}", err=True)
        raise typer.Exit(3) from error
    except SystemExit as error:  # raised by code of the specification; its status would look like a verdict
        say(f"The run could not go on: code of the specification ended it, by SystemExit: {error}", err=True)
        raise typer.Exit(3) from error
    except Exception as error:  # a fault of ours must not look like a disagreement, which is status 1
        say(traceback.format_exc(), err=True)
        raise typer.Exit(3) from error


def finish(status: int, show: Callable[[], None]) -> NoReturn:
    """Print after all files are written, and exit. A fault in the printing must not look like a verdict."""
    try:
        show()
    except Exception:
        say(traceback.format_exc(), err=True)
        status = status or 3
    raise typer.Exit(status)


def _with_harness(work: Callable[[ModuleType], T]) -> T:
    try:
        from eca_multi import parity
        from eca_multi.parity.explain.trust import Untrusted

        try:
            return work(parity)
        except Untrusted as error:  # not as BadParameter: its frame would cut what would run into pieces
            say(error, err=True)
            raise typer.Exit(2) from error
        except parity.SpecError as error:
            raise wrong(str(error)) from error
    except NotInstalled as error:
        say(str(error), err=True)
        raise typer.Exit(2) from error
