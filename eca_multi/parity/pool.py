"""The workers of a run: started, asked, read, timed and ended here. Each stays until the pool closes."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from .runners import FORCED_ENV, WORKER_ENV, Runner

GRACE = 10.0  # seconds between the last word to a worker and its end
TAIL = 15  # lines of a worker's standard error that are shown when it dies

Request = Mapping[str, Any]


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

    def __init__(self, runner: Runner, folder: Path, inbox: Inbox) -> None:
        self.runner = runner
        self.heard = time.monotonic()
        self.busy = False
        self.fault = ""
        self._stderr = folder / "stderr.txt"
        environment = {**WORKER_ENV, **os.environ, **FORCED_ENV, **runner.env}
        if runner.python:  # another environment finds this package where it lies
            environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                # -P: a folder named after a framework in the current directory must not be taken for it
                [runner.python or sys.executable, "-P", "-m", "eca_multi.parity.worker", runner.role, runner.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._thread.start()

    def ask(self, requests: Sequence[Request]) -> None:
        """Hand over a batch of jobs."""
        self.heard, self.busy = time.monotonic(), True
        self._say(json.dumps(requests))

    def leave(self) -> None:
        """Ask the worker to end, and wait for it."""
        self._say("null")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.kill()

    def _say(self, line: str) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it has died: its reader says so
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    def _listen(self, inbox: Inbox) -> None:
        """Pass on each answer; a None says that nothing more will come."""
        try:
            if self.process.stdout is not None:  # as it is: it was asked for
                with self.process.stdout as lines:
                    for line in lines:
                        inbox.put((self, json.loads(line)))
        except ValueError:  # half a line from a worker that was killed, or a line that is not ours
            self.fault = "wrote to the harness's pipe what is no answer"
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE if not self.fault else 0.1)
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
        self._thread.join(GRACE)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class Pool:
    """Persistent workers, `workers` of them busy at a time.

    A worker that dies, or says nothing for `timeout` seconds, costs its own results only. However a run ends, no worker
    outlives its pool.
    """

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self.folder, self.limit, self.timeout = folder, workers, timeout
        self.workers: dict[str, Worker] = {}
        self.dead: set[str] = set()
        self._inbox: Inbox = queue.Queue()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            if kind is None and not worker.busy:
                worker.leave()
            worker.kill()
        self.workers.clear()

    def run(self, batches: Sequence[tuple[Runner, Sequence[Request]]]) -> Iterator[Message]:
        """Have each batch done by its runner's worker, and yield what they say as they say it.

        The batches of one runner must be one batch. A runner that has died says so again.
        """
        waiting = [(runner, requests) for runner, requests in batches if requests]
        busy: set[Worker] = set()
        while waiting or busy:
            while waiting and len(busy) < self.limit:
                runner, requests = waiting.pop(0)
                if runner.name in self.dead:
                    yield Message(runner, "crashed", detail="ended earlier in this run")
                    continue
                worker = self._worker(runner)
                worker.ask(requests)
                busy.add(worker)
            for worker in [w for w in busy if time.monotonic() - w.heard > self.timeout]:
                busy.discard(worker)
                worker.kill()
                self._bury(worker)
                yield Message(
                    worker.runner,
                    "timed out",
                    detail=f"said nothing for {self.timeout:g} s\n{worker.tail()}".strip(),
                )
            try:
                worker, message = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if worker not in busy:  # the last words of one that was killed
                continue
            worker.heard = time.monotonic()
            if message is None:
                busy.discard(worker)
                status = worker.end()
                self._bury(worker)
                yield Message(worker.runner, "crashed", detail=f"{status}\n{worker.tail()}".strip())
            elif message.get("done"):
                busy.discard(worker)
                worker.busy = False
                yield Message(worker.runner, "done")
            else:
                yield Message(worker.runner, "versions" if "versions" in message else "result", message)

    def _worker(self, runner: Runner) -> Worker:
        if runner.name not in self.workers:
            home = self.folder / f"worker-{len(self.workers) + len(self.dead)}"
            home.mkdir()
            self.workers[runner.name] = Worker(runner, home, self._inbox)
        return self.workers[runner.name]

    def _bury(self, worker: Worker) -> None:
        self.dead.add(worker.runner.name)
        self.workers.pop(worker.runner.name, None)
