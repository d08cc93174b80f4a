"""A signal ends a command, whatever becomes of its exception: each in a process of its own, without a framework."""

import subprocess
import sys

import pytest

COMMAND = """
import os, signal, sys, time
from eca_multi._signals import Ended, ended_by_exception

class Collected:
    def __del__(self):  # what is raised in here Python drops, as in a callback of its garbage collector
        os.kill(os.getpid(), signal.SIGTERM)

def dropped_by_python():
    Collected()
    time.sleep(10)

def dropped_by_a_library():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except BaseException:
        pass
    sys.exit(0)

def several():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    finally:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
            os.kill(os.getpid(), number)
        print("cleared up")

def another_error():
    class Broken:
        def __del__(self):
            raise ValueError("an error of its own")
    Broken()

try:
    with ended_by_exception():
        globals()[sys.argv[1]]()
except Ended as ended:
    sys.exit(ended.status)
"""


@pytest.mark.parametrize("what", ["dropped_by_python", "dropped_by_a_library", "several"])
def test_a_signal_ends_a_command(what):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, what], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (143, "")
    assert (done.stdout == "cleared up\n") == (what == "several")


def test_an_error_that_python_drops_is_reported_as_ever():
    run = [sys.executable, "-c", COMMAND, "another_error"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "Exception ignored in" in done.stderr
    assert "an error of its own" in done.stderr
