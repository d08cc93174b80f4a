"""A layer of NumPy alone, and all that may go wrong with a process that runs it; for tests/parity/test_process.py.

The workers load this file and nothing else of the tests, so that a run takes a second.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from eca_multi.parity import Case, Spec
from tests.support.scale import Off, Scale, Truth

MARKS = Path(os.environ.get("PARITY_TEST_FOLDER", "/nowhere"))  # where those that hang say who they are


class Unprintable(Scale):
    """Raises what no terminal can show."""

    def build(self, config):
        raise ValueError("half a character \ud800, an escape \x1b[2J, and a word: größer")


def _leave_a_child(name: str) -> None:
    """Start what belongs to no group of ours."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (MARKS / f"{name}-child.tmp").write_text(str(child.pid))
    (MARKS / f"{name}-child.tmp").rename(MARKS / f"{name}-child")


class LeavesAChild(Scale):
    def build(self, config):
        _leave_a_child("leaves")
        return super().build(config)


class Hangs(Scale):
    """Leaves a child, and never answers."""

    def build(self, config):
        (MARKS / "hangs").write_text(str(os.getpid()))
        _leave_a_child("hangs")
        time.sleep(600)


class DiesBesideAFork(Scale):
    """Its copy keeps the pipes open, in a session of its own."""

    def build(self, config):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        print("last words", flush=True)
        os._exit(9)


class DiesWhileNobodyAsks(Off):
    """A moment after it has answered, when the harness has nothing for it."""

    def build(self, config):
        threading.Timer(0.3, os._exit, (7,)).start()
        return super().build(config)


class _Second(Truth):
    """A reference that ends in the second case."""

    evaluations = 0

    def build(self, config):
        if config["N"] == 1:
            self.end()
        return super().build(config)


class Exits(_Second):
    def end(self):
        print("the last words of the reference", flush=True)
        os._exit(5)


class Leaves(_Second):
    def end(self):
        sys.exit("it leaves")


class Killed(_Second):
    def end(self):
        os.kill(os.getpid(), 9)


class Waits(_Second):
    def end(self):
        time.sleep(600)


FIELDS = {"layout": "N C", "weights": {"s": "C"}, "reference": Truth, "cases": (Case("offsets"),)}
GREEN = Spec("Scale", runners={"numpy": Scale}, **FIELDS)
RED = Spec("Scale", runners={"numpy": Scale, "numpy-off": Off, "numpy-unprintable": Unprintable}, **FIELDS)
UNSHOWN = Spec("Scale", runners={"numpy": Scale, "numpy-unprintable": Unprintable}, **FIELDS)
HANGING = Spec("Scale", runners={"numpy-hangs": Hangs, "numpy": Scale}, **FIELDS)
