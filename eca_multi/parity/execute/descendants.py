"""Ending every process that a worker started, by a mark in the environment that each descendant inherits.

A process group is not enough: `setsid` leaves it. On Linux /proc shows the environment with which each process began.
Elsewhere, only the worker's process group ends with the worker; a descendant that cleared its environment lives on.
"""

import os
import signal
from pathlib import Path

MARK = "ECA_MULTI_WORKER"  # the value names one worker of this machine
_ROUNDS = 5  # a descendant may start another one during a round


def end_marked(mark: str) -> None:
    """End all processes of this user that descend from the worker with this mark, but not the caller."""
    wanted = f"{MARK}={mark}".encode()
    if not hasattr(os, "pidfd_open"):
        return
    for _ in range(_ROUNDS):
        if not any([_end(folder, wanted) for folder in Path("/proc").glob("[0-9]*")]):
            return


def _end(folder: Path, wanted: bytes) -> bool:
    """Kill a process if it has the mark, and return whether it had it."""
    number = int(folder.name)
    if number == os.getpid():
        return False
    handle = -1
    try:
        if folder.stat().st_uid != os.geteuid():
            return False
        handle = os.pidfd_open(number)  # opened first: if the number goes to another process, the handle does not
        if wanted not in (folder / "environ").read_bytes().split(b"\0"):
            return False
        if (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":  # ended; its parent does not know yet
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:  # the process has ended, or belongs to another user
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True
