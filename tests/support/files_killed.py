"""Writers that are killed, for test_files.py: `python files_killed.py WHAT HOW FOLDER NUMBER`. No framework.

WHAT is "file", "folder" or "folder-two-steps" (as where no system call exchanges two names). HOW is
    kill    a process for every NUMBERth line of the writers' code, which is killed when it comes to that line;
    raise   the same with an exception, as a signal raises one;
    random  NUMBER processes that write without end, each killed at some moment.
After each, the target is looked at, and another writer writes. Printed, as JSON: how often which state was found, how
often something was left behind, and how often something was still there after the next writer.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from eca_multi._files import disk as _disk
from eca_multi._files import file as _files
from eca_multi._files import folder as _folders
from eca_multi._files import scratch as _scratch

WRITERS = {module.__file__ for module in (_disk, _files, _folders, _scratch)}
KNOWN = _folders.Known("a folder of this test", "a", re.compile("[abc]|inner/|inner/[ab]"))
NAMES = ("a", "b", "c", "inner/a", "inner/b")
SIZE = 3000


class Signal(BaseException):
    pass


def write(target: Path, what: str, text: str) -> None:
    if what == "file":
        with _files.whole_file(target) as file:
            for _ in range(10):
                file.write(text.encode() * SIZE)
        return
    with _folders.whole_folder(target, KNOWN) as folder:
        (folder / "inner").mkdir(parents=True)
        for name in NAMES:
            (folder / name).write_text(text * SIZE)


def state(target: Path, what: str) -> str:
    """Return what a complete target holds: one letter, repeated."""
    if what == "file":
        text = target.read_text()
        return text[0] if text == text[0] * 10 * SIZE else f"{len(text)} bytes of {set(text)}"
    if not target.exists():  # in two steps it lies beside its place for a moment
        (target,) = target.parent.glob(f"{target.name}.old-*")
        return "aside " + state(target, what)
    held = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    letter = held.get("a", "?")[0]
    return letter if held == {name: letter * SIZE for name in NAMES} else f"{sorted(held)}"


def stopped_at(number: int, how: str) -> None:
    """Stop this process at a line of the writers' code, the one of that number that it comes to."""
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in WRITERS:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Signal
        return trace

    sys.settrace(trace)


def stopped(target: Path, what: str, how: str, number: int) -> bool:
    """Have a process write and stop it; return whether it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            if how != "random":
                stopped_at(number, how)
                write(target, what, "n")
            while how == "random":
                write(target, what, "n")
                write(target, what, "o")
        except Signal:
            os._exit(1)
        os._exit(0)
    if how == "random":
        time.sleep(random.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def left(folder: Path, target: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path != target]


def main(what: str, how: str, folder: Path, number: int) -> None:
    if what == "folder-two-steps":
        _folders.exchange = lambda one, other: False
    os.fsync = lambda handle: None  # the power stays on
    target = folder / "target"
    states: Counter[str] = Counter()
    found = stayed = 0
    count = 0
    while how != "random" or count < number:
        for path in folder.glob("target.old-*"):  # as its name says
            shutil.rmtree(path)
        write(target, what, "o")
        count += 1 if how == "random" else number
        if stopped(target, what, how, count):
            break
        states[state(target, what)] += 1
        before = [name for name in left(folder, target) if ".old-" not in name]
        found += bool(before)
        write(target, what, "n")
        stayed += bool({*left(folder, target)} & {*before})
    print(json.dumps({"count": count, "states": states, "left": found, "stayed": stayed}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
