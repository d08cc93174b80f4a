"""The layer of scale.py in processes that hang, die, fork or leave children; for tests/parity/test_process.py.

The workers load this file and scale.py, which import no framework, so a run takes a second.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from eca_multi.parity import Case, Spec
from tests.support.scale import Off, Scale, Truth

MARKS = Path(os.environ.get("PARITY_TEST_FOLDER", "/nowhere"))  # where hanging workers write their process numbers


class Unprintable(Scale):
    """Raise an exception whose text no terminal can show."""

    def build(self, config):
        raise ValueError("half a character \ud800, an escape \x1b[2J, and a word: größer")


def _leave_a_child(name: str) -> None:
    """Start a child in its own session, outside the worker's process group."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (MARKS / f"{name}-child.tmp").write_text(str(child.pid))
    (MARKS / f"{name}-child.tmp").rename(MARKS / f"{name}-child")


class LeavesAChild(Scale):
    def build(self, config):
        _leave_a_child("leaves")
        return super().build(config)


class Hangs(Scale):
    """Leave a child, and never answer."""

    def build(self, config):
        (MARKS / "hangs").write_text(str(os.getpid()))
        _leave_a_child("hangs")
        time.sleep(600)


class DiesBesideAFork(Scale):
    """Die while a fork, in its own session, keeps the pipes open."""

    def build(self, config):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        print("last words", flush=True)
        os._exit(9)


class DiesWhileNobodyAsks(Off):
    """Die a moment after the answer, while the harness asks nothing."""

    def build(self, config):
        threading.Timer(0.3, os._exit, (7,)).start()
        return super().build(config)


class _Second(Truth):
    """A reference whose process ends in the second case."""

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
