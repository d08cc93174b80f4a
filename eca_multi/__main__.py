"""The entry point of `eca-multi` and of `python -m eca_multi`."""

import sys


def main() -> None:
    try:
        from eca_multi.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f'eca-multi needs {error.name}, which is not installed. Run: pip install "eca-multi[cli]"')
    app()


if __name__ == "__main__":
    main()
