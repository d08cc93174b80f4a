"""The entry point of `eca-multi` and of `python -m eca_multi`."""

import sys

from eca_multi._errors import not_installed


def main() -> None:
    try:
        from eca_multi.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(not_installed("eca-multi", error.name, "cli"))
    app()


if __name__ == "__main__":
    main()
