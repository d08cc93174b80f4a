"""The files that a command writes: checked before its work, written after it."""

import traceback
from collections.abc import Callable
from pathlib import Path

from eca_multi._files.file import write_atomically
from eca_multi._terminal import say

from .guard import wrong


def check_file(file: Path | None, option: str) -> None:
    """Refuse a file that could not be written after the work."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise wrong(f"{file} is not a file in an existing folder.", option)


def check_folder(folder: Path | None, option: str) -> None:
    """Refuse a folder that could not be made after the work."""
    if folder is not None and (folder.is_file() or not folder.parent.is_dir()):
        raise wrong(f"{folder} is not a folder in an existing one.", option)


def write(file: Path, make: Callable[[], str], status: int, option: str = "") -> int:
    """Write the text that `make` returns to a file, whole or not at all; return the exit status of the command.

    The status so far stays if the text is written or the status is a failure already. Else it becomes 2 if the system
    refused, 3 if the fault is ours.
    """
    try:
        write_atomically(file, make().encode(errors="backslashreplace"))
    except OSError as error:
        say(f"{option} {file} could not be written: {error}".strip(), err=True)
        return status or 2
    except Exception:
        say(f"{option} {file} could not be written:".strip(), err=True)
        say(traceback.format_exc(), err=True)
        return status or 3
    return status
