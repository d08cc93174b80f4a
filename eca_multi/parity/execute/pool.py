"""The workers of a run: started, asked, read, timed and ended here. Each stays until the pool closes."""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias

from eca_multi._files.scratch import PLACE
from eca_multi.parity.define.runners import FORCED_ENV, WORKER_ENV, Runner

from .descendants import MARK, end_marked
from .messages import LONGEST, TEXT, Done, Malformed, Request, Said, bounded, encode_requests, parse

GRACE = 10.0  # seconds between the last word to a worker and its end
PAUSE = 1.0  # seconds between two looks at the workers, from which on it was a pause
TAIL = 15  # lines of a worker's standard error that are shown when it dies, out of its last TEXT bytes


@dataclass(frozen=True)
class Lost:
    """The end of a worker that has not answered all. `kind` is "crashed" or "timed out"."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Closed:
    """Nothing more will come from a worker. `fault` says what it wrote that is no answer, if that is why."""

    fault: str


Inbox: TypeAlias = "queue.Queue[tuple[Worker, Said | Closed]]"


class NotStarted(Exception):
    """The interpreter of a worker is none that this machine can run."""


class Worker:
    """One process with one adapter, in a group of its own and with a mark, so that all it started can be ended with it.

    Raises:
        NotStarted: If its interpreter cannot be run.
    """

    def __init__(self, runner: Runner, folder: Path, inbox: Inbox) -> None:
        self.runner = runner
        self.heard = time.monotonic()
        self.busy = self.over = False
        self._asked = False  # for a batch that is not done
        self._open: set[int] = set()  # what it was asked and has not answered
        self._words = b""  # the end of its standard error
        self._mark = secrets.token_hex(16)
        environment = {**WORKER_ENV, **os.environ, **FORCED_ENV, **runner.env, MARK: self._mark}
        environment[PLACE] = str(folder)  # a worker is killed, and cannot clear up
        python = runner.python or sys.executable
        try:
            folder.mkdir()
            if runner.python:  # another environment finds this package, and nothing that is installed beside it
                (folder / "lent").mkdir()
                (folder / "lent" / "eca_multi").symlink_to(Path(__file__).parents[2])
                environment["PYTHONPATH"] = str(folder / "lent")
            self.process = subprocess.Popen(
                # -P: a folder named after a framework in the current directory must not be taken for it
                [python, "-P", "-m", "eca_multi.parity.execute.worker", runner.role, runner.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # and no file, which a worker could fill the disk with
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise NotStarted(f"{python} did not start: {error}. Correct python= of the runner.") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=target, args=arguments, daemon=True)
            for target, arguments in (
                (self._listen, (self.process.stdout, inbox)),
                (self._overhear, (self.process.stderr,)),
                (self._write, (self.process.stdin,)),
            )
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, requests: Sequence[Request]) -> None:
        """Hand over a batch of jobs."""
        self.heard, self.busy = time.monotonic(), True
        self._open |= {request.id for request in requests}
        self._asked = True  # last: whoever says "done" before it was asked is caught by the one or the other
        self._say(encode_requests(requests))

    def leave(self) -> None:
        """Ask the worker to end, and wait for it."""
        self._say(encode_requests(None))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.kill()

    def _say(self, line: str) -> None:
        self._lines.put(line + "\n")

    def _write(self, pipe: IO[bytes]) -> None:
        """Write from a thread: a worker that does not read yet must not keep the others waiting."""
        with contextlib.suppress(OSError), pipe:  # it has died: its reader says so
            while (line := self._lines.get()) is not None:
                pipe.write(line.encode())
                pipe.flush()

    def _listen(self, pipe: IO[bytes], inbox: Inbox) -> None:
        """Pass on each message, and at last that nothing more will come."""
        fault, greeted = "", False
        try:
            with pipe:
                while line := pipe.readline(LONGEST):
                    if len(line) == LONGEST and not line.endswith(b"\n"):
                        raise Malformed(f"a line must be shorter than {LONGEST} bytes")
                    self.heard = time.monotonic()  # now, and not when somebody has time for it
                    said = parse(line, greeted=greeted, asked=self._asked, open_ids=self._open)
                    greeted = True
                    if isinstance(said, Done):
                        self._asked = False
                    self._open.discard(getattr(said, "id", -1))
                    inbox.put((self, said))
        except Malformed as error:
            fault = f"wrote to the harness's pipe what is no answer: {error}"
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE if not fault else 0.1)
            self.over = True
            inbox.put((self, Closed(fault)))

    def _overhear(self, pipe: IO[bytes]) -> None:
        """Keep the end of what a worker prints, and of that no more than is shown."""
        with pipe:
            while data := os.read(pipe.fileno(), 65536):
                self._words = (self._words + data)[-TEXT:]

    def tail(self) -> str:
        words = self._words.decode(errors="replace")
        if len(self._words) == TEXT:  # the first line is the rest of one
            words = words.partition("\n")[2] or words
        return bounded("\n".join(words.strip().splitlines()[-TAIL:]))

    def end(self, fault: str) -> str:
        """End what is left of a worker that says no more, and return how it ended."""
        status = fault or f"exit status {self.process.poll()}"
        self.kill()  # also the processes that it started itself
        return status

    def kill(self) -> None:
        """End the worker and all that it started, and the threads that talked with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end_marked(self._mark)
        self._lines.put(None)
        for thread in self._threads:
            thread.join(GRACE)

    def free_pipes(self) -> None:
        """Where the worker has died, end what it started: that may hold the pipes open, and nothing more would come."""
        if self.process.poll() is not None and not self.over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            end_marked(self._mark)


class Pool:
    """Persistent workers, `workers` of them busy at a time.

    A worker that dies, says nothing for `timeout` seconds, or what is no answer, costs its own results only. However a
    run ends, no worker outlives its pool.
    """

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self.folder, self.limit, self.timeout = folder, workers, timeout
        self.workers: dict[str, Worker] = {}
        self.dead: dict[str, str] = {}  # how each of them ended
        self._busy: set[Worker] = set()
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

    def run(self, batches: Sequence[tuple[Runner, Sequence[Request]]]) -> Iterator[tuple[Runner, Said | Lost]]:
        """Have each batch done by its runner's worker, and yield what they say as they say it.

        The batches of one runner must be one batch. A runner that has died says so again.
        """
        waiting = [(runner, requests) for runner, requests in batches if requests]
        looked = time.monotonic()
        while waiting or self._busy:
            # After a pause of our own (we were stopped, or somebody was busy with a result) we listen first: to what
            # has come, and for a moment to what is on its way.
            looked, before = time.monotonic(), looked
            has_listened = looked - before < PAUSE and self._inbox.empty()
            while waiting and len(self._busy) < self.limit:
                runner, requests = waiting.pop(0)
                if lost := self._start(runner, requests):
                    yield runner, lost
            for worker in list(self._busy):
                worker.free_pipes()
                if has_listened and time.monotonic() - worker.heard > self.timeout:
                    worker.kill()
                    yield worker.runner, self._bury(worker, "timed out", f"said nothing for {self.timeout:g} s")
            try:
                worker, said = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if self.workers.get(worker.runner.name) is not worker:  # the last words of one that was ended
                continue
            if isinstance(said, Closed):
                was_busy = worker in self._busy
                lost = self._bury(worker, "crashed", worker.end(said.fault))
                if was_busy:  # else it is said when it is asked again
                    yield worker.runner, lost
            else:
                if isinstance(said, Done):
                    self._busy.discard(worker)
                    worker.busy = False
                yield worker.runner, said

    def condemn(self, runner: Runner, fault: str) -> Lost:
        """End a worker whose answer turned out to be none."""
        worker = self.workers.get(runner.name)
        if worker is None:
            return Lost("crashed", self.dead.get(runner.name, fault))
        worker.kill()
        return self._bury(worker, "crashed", fault)

    def _start(self, runner: Runner, requests: Sequence[Request]) -> Lost | None:
        """Ask a runner's worker, started now if need be; return how it was lost where that cannot be."""
        worker = self.workers.get(runner.name)
        if worker is not None and worker.over:  # it has died since it was asked last
            self._bury(worker, "crashed", worker.end(""))
        if runner.name in self.dead:
            return Lost("crashed", f"ended earlier in this run: {self.dead[runner.name]}")
        try:
            worker = self._worker(runner)
        except NotStarted as error:
            self.dead[runner.name] = str(error)
            return Lost("crashed", str(error))
        worker.ask(requests)
        self._busy.add(worker)
        return None

    def _worker(self, runner: Runner) -> Worker:
        if runner.name not in self.workers:
            home = self.folder / f"worker-{len(self.workers) + len(self.dead)}"
            self.workers[runner.name] = Worker(runner, home, self._inbox)
        return self.workers[runner.name]

    def _bury(self, worker: Worker, kind: str, status: str) -> Lost:
        """Forget a worker that has ended."""
        self._busy.discard(worker)
        self.dead[worker.runner.name] = status
        self.workers.pop(worker.runner.name, None)
        return Lost(kind, f"{status}\n{worker.tail()}".strip())
