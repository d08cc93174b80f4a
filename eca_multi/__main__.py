"""The entry point of `eca-multi` and of `python -m eca_multi`."""

import sys
import traceback

from ._errors import not_installed
from ._printable import printable
from ._signals import Ended, ended_by_exception
from ._streams import steady_output

FAULT = 3  # of ours: Python's own status for it, 1, would mean that implementations disagree


def main() -> None:
    output = steady_output()
    status = _run()
    sys.stdout.flush()
    sys.exit(output.status(status))


def _run() -> int:
    """Do what the command line asks for, and return the exit status, whatever is raised."""
    try:
        with ended_by_exception():
            from .cli.main import app

            app()
    except Ended as signal:
        return signal.status
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else _say(end.code)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in ("typer", "rich"):
            return _say(not_installed("eca-multi", error.name, "cli"))
        # A fault of ours: each mistake of a user was caught, and said in a line.
        print(printable(traceback.format_exc(), lines=True), file=sys.stderr)
    return FAULT


def _say(text: object) -> int:
    print(text, file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
