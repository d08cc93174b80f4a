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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from .runners import WORKER_ENV, Runner

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
        self._stderr = folder / "stderr.txt"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                # -P: a folder named after a framework in the current directory must not be taken for it
                [sys.executable, "-P", "-m", "eca_multi.parity.worker", runner.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**WORKER_ENV, **os.environ, **runner.env},
                text=True,
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._talk, args=(requests, inbox), daemon=True)
        self._thread.start()

    def _talk(self, requests: list[dict[str, Any]], inbox: Inbox) -> None:
        """Hand over the jobs and pass on each answer; a None says that the worker is gone."""
        stdin, stdout = self.process.stdin, self.process.stdout
        try:
            if stdin is not None and stdout is not None:  # as they are: both were asked for
                with stdout:
                    with contextlib.suppress(BrokenPipeError), stdin:
                        stdin.write(json.dumps(requests) + "\n")
                    for line in stdout:
                        inbox.put((self, json.loads(line)))
            self.process.wait()
        finally:  # also after half a line from a worker that was killed
            inbox.put((self, None))

    def tail(self) -> str:
        return "\n".join(self._stderr.read_text(errors="replace").strip().splitlines()[-TAIL:])

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
) -> Iterator[Message]:
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
            try:
                worker, message = inbox.get(timeout=0.2)
            except queue.Empty:
                for worker in [w for w in running if time.monotonic() - w.heard > timeout]:
                    running.discard(worker)
                    worker.kill()
                    said = f"said nothing for {timeout:g} s"
                    yield Message(worker.runner, "timed out", detail=f"{said}\n{worker.tail()}".strip())
                continue
            if worker not in running:  # the last words of one that was killed
                continue
            worker.heard = time.monotonic()
            if message is None:
                running.discard(worker)
                code = worker.process.returncode
                if code == 0:
                    yield Message(worker.runner, "done")
                else:
                    yield Message(worker.runner, "crashed", detail=f"exit status {code}\n{worker.tail()}")
            else:
                yield Message(worker.runner, "versions" if "versions" in message else "result", message)
    finally:
        for worker in running:
            worker.kill()
