"""The workers of a run: started, read, timed and ended here."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from .runners import FORCED_ENV, WORKER_ENV, Runner

GRACE = 10.0  # seconds between a worker's last answer and its end
TAIL = 15  # lines of a worker's standard error that are shown when it dies


@dataclass(frozen=True)
class Message:
    """What a worker said. `kind` is "versions", "result", "done", "crashed" or "timed out"."""

    runner: Runner
    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    detail: str = ""


Inbox: TypeAlias = "queue.Queue[tuple[Worker, dict[str, Any] | None]]"


class Worker:
    """One process with one adapter, in a group of its own so that all it started can be ended with it."""

    def __init__(self, runner: Runner, requests: list[dict[str, Any]], folder: Path, inbox: Inbox) -> None:
        self.runner = runner
        self.heard = time.monotonic()
        self.fault = ""
        self._stderr = folder / "stderr.txt"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                # -P: a folder named after a framework in the current directory must not be taken for it
                [sys.executable, "-P", "-m", "eca_multi.parity.worker", runner.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**WORKER_ENV, **os.environ, **FORCED_ENV, **runner.env},
                text=True,
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._talk, args=(requests, inbox), daemon=True)
        self._thread.start()

    def _talk(self, requests: list[dict[str, Any]], inbox: Inbox) -> None:
        """Hand over the jobs and pass on each answer; a None says that nothing more will come."""
        stdin, stdout = self.process.stdin, self.process.stdout
        try:
            if stdin is not None and stdout is not None:  # as they are: both were asked for
                # The worker ends itself when its standard input closes: not before it has ended well.
                with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired), stdin, stdout:
                    stdin.write(json.dumps(requests) + "\n")
                    stdin.flush()
                    for line in stdout:
                        inbox.put((self, json.loads(line)))
                    self.process.wait(GRACE)
        except ValueError:  # half a line from a worker that was killed, or a line that is not ours
            self.fault = "wrote to the harness's pipe what is no answer"
        finally:
            inbox.put((self, None))

    def tail(self) -> str:
        return "\n".join(self._stderr.read_text(errors="replace").strip().splitlines()[-TAIL:])

    def end(self) -> str:
        """End what is left of a worker that says no more, and return how it ended."""
        status = self.fault or f"exit status {self.process.poll()}"
        self.kill()  # also the processes that it started itself
        return status

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_workers(
    runners: Sequence[Runner],
    requests: dict[str, list[dict[str, Any]]],
    folder: Path,
    *,
    workers: int,
    timeout: float,
) -> Generator[Message]:
    """Run each runner's requests in a process, `workers` at a time, and yield what they say as they say it.

    A worker that dies, or says nothing for `timeout` seconds, costs its own results only. However this ends, no worker
    outlives it.
    """
    waiting = list(runners)
    inbox: Inbox = queue.Queue()
    running: set[Worker] = set()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                runner = waiting.pop(0)
                home = folder / runner.name.replace(":", "-")
                home.mkdir()
                running.add(Worker(runner, requests[runner.name], home, inbox))
            for worker in [w for w in running if time.monotonic() - w.heard > timeout]:
                running.discard(worker)
                worker.kill()
                detail = f"said nothing for {timeout:g} s\n{worker.tail()}".strip()
                yield Message(worker.runner, "timed out", detail=detail)
            try:
                worker, message = inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if worker not in running:  # the last words of one that was killed
                continue
            worker.heard = time.monotonic()
            if message is not None:
                yield Message(worker.runner, "versions" if "versions" in message else "result", message)
                continue
            running.discard(worker)
            status = worker.end()
            if status == "exit status 0":
                yield Message(worker.runner, "done")
            else:
                yield Message(worker.runner, "crashed", detail=f"{status}\n{worker.tail()}".strip())
    finally:
        for worker in running:
            worker.kill()
