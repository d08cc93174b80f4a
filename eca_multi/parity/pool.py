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

from eca_multi._scratch import PLACE

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


class NotStarted(Exception):
    """The interpreter of a worker is none that this machine can run."""


class Worker:
    """One process with one adapter, in a group of its own so that all it started can be ended with it.

    Raises:
        NotStarted: If its interpreter cannot be run.
    """

    def __init__(self, runner: Runner, folder: Path, inbox: Inbox) -> None:
        self.runner = runner
        self.heard = time.monotonic()
        self.busy = False
        self.fault = ""
        self._stderr = folder / "stderr.txt"
        environment = {**WORKER_ENV, **os.environ, **FORCED_ENV, **runner.env}
        environment[PLACE] = str(folder)  # a worker is killed, and cannot clear up
        if runner.python:  # another environment finds this package, and nothing that is installed beside it
            (folder / "lent").mkdir()
            (folder / "lent" / "eca_multi").symlink_to(Path(__file__).parents[1])
            environment["PYTHONPATH"] = str(folder / "lent")
        python = runner.python or sys.executable
        with self._stderr.open("wb") as stderr:
            try:
                self.process = subprocess.Popen(
                    # -P: a folder named after a framework in the current directory must not be taken for it
                    [python, "-P", "-m", "eca_multi.parity.worker", runner.role, runner.adapter],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    text=True,
                    start_new_session=True,
                )
            except OSError as error:
                raise NotStarted(f"{python} did not start: {error}. Correct python= of the runner.") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._listen, args=(inbox,), daemon=True),
            threading.Thread(target=self._write, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

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
        self._lines.put(line + "\n")

    def _write(self) -> None:
        """Write from a thread: a worker that does not read yet must not keep the others waiting."""
        if self.process.stdin is not None:  # as it is: it was asked for
            with contextlib.suppress(OSError), self.process.stdin as pipe:  # it has died: its reader says so
                while (line := self._lines.get()) is not None:
                    pipe.write(line)
                    pipe.flush()

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
        self._lines.put(None)
        for thread in self._threads:
            thread.join(GRACE)


class Pool:
    """Persistent workers, `workers` of them busy at a time.

    A worker that dies, or says nothing for `timeout` seconds, costs its own results only. However a run ends, no worker
    outlives its pool.
    """

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self.folder, self.limit, self.timeout = folder, workers, timeout
        self.workers: dict[str, Worker] = {}
        self.dead: dict[str, str] = {}  # how each of them ended
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
                    yield Message(runner, "crashed", detail=f"ended earlier in this run: {self.dead[runner.name]}")
                    continue
                try:
                    worker = self._worker(runner)
                except NotStarted as error:
                    self.dead[runner.name] = str(error)
                    yield Message(runner, "crashed", detail=str(error))
                    continue
                worker.ask(requests)
                busy.add(worker)
            for worker in [w for w in busy if time.monotonic() - w.heard > self.timeout]:
                busy.discard(worker)
                worker.kill()
                yield self._bury(worker, "timed out", f"said nothing for {self.timeout:g} s")
            try:
                worker, message = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if worker not in busy:  # the last words of one that was killed
                continue
            worker.heard = time.monotonic()
            if message is None:
                busy.discard(worker)
                yield self._bury(worker, "crashed", worker.end())
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

    def _bury(self, worker: Worker, kind: str, status: str) -> Message:
        self.dead[worker.runner.name] = status
        self.workers.pop(worker.runner.name, None)
        return Message(worker.runner, kind, detail=f"{status}\n{worker.tail()}".strip())
