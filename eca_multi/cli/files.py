"""The files that a command writes: checked before its work, written after it."""

import traceback
from collections.abc import Callable
from pathlib import Path

from eca_multi._files.file import write_atomically
from eca_multi._terminal import say

from .guard import wrong


def check_file(file: Path | None, option: str) -> None:
    """Refuse a file that could not be written after the work.

    Raises:
        typer.BadParameter: If there is no such folder, or a folder has the name.
    """
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise wrong(f"{file} is not a file in an existing folder.", option)


def check_folder(folder: Path | None, option: str) -> None:
    """Refuse a folder that could not be made after the work.

    Raises:
        typer.BadParameter: If the folder around it does not exist, or a file has the name.
    """
    if folder is not None and (folder.is_file() or not folder.parent.is_dir()):
        raise wrong(f"{folder} is not a folder in an existing one.", option)


def write(file: Path, make: Callable[[], str], status: int, option: str = "") -> int:
    """Write text to a file, whole or not at all.

    Args:
        file: Where to write.
        make: Returns the text.
        status: The exit status of the command so far.
        option: The option that named the file.

    Returns:
        `status`, if the text is written or `status` is a failure already; else 2 if the system refused, 3 if the fault
        is ours.
    """
    try:
        write_atomically(file, make().encode(errors="backslashreplace"))
    except OSError as error:
        say(f"{option} {file} could not be written: {error}".strip(), err=True)
        return status or 2
    except Exception:  # of `make`
        say(f"{option} {file} could not be written:".strip(), err=True)
        say(traceback.format_exc(), err=True)
        return status or 3
    return status
