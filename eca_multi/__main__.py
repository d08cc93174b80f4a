"""The entry point of `eca-multi` and of `python -m eca_multi`."""

import sys

from eca_multi._errors import not_installed
from eca_multi._signals import Ended, ended_by_exception


def main() -> None:
    try:
        from eca_multi.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(not_installed("eca-multi", error.name, "cli"))
    try:
        with ended_by_exception():
            app()
    except Ended as signal:
        sys.exit(signal.status)


if __name__ == "__main__":
    main()
