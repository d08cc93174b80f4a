"""The workers of a run: which of them is busy, which has ended and how. Each one stays until the pool closes."""

import os
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from eca_multi.parity.define.runners import Runner

from .messages import Done, Request, Said
from .process import Closed, Inbox, NotStarted, Process

PAUSE = 1.0  # seconds between two looks at the workers, from which on the harness itself has paused


@dataclass(frozen=True)
class Lost:
    """The end of a worker with requests that it has not answered. `kind` is "crashed" or "timed out"."""

    kind: str
    detail: str


class Pool:
    """Persistent workers, `workers` of them busy at a time.

    A worker that dies, is silent for `timeout` seconds, or writes something that is no message, costs its own results
    only. However a run ends, no worker outlives its pool.
    """

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self.folder, self.limit, self.timeout = folder, workers, timeout
        self.workers: dict[str, Process] = {}
        self.dead: dict[str, str] = {}  # by runner: how its worker ended
        self._busy: set[Process] = set()
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
        """Give each batch to its runner's worker, and yield the messages as they come.

        A runner must have one batch at most. One whose worker has ended yields `Lost` again.
        """
        waiting = [(runner, requests) for runner, requests in batches if requests]
        looked = time.monotonic()
        while waiting or self._busy:
            # After a pause of the harness (it was stopped, or busy with a result) messages may lie in the inbox or be
            # on their way, so that silence counts only after it has listened.
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
            if self.workers.get(worker.runner.name) is not worker:  # the last words of a worker that the pool ended
                continue
            if isinstance(said, Closed):
                was_busy = worker in self._busy
                lost = self._bury(worker, "crashed", worker.end(said.fault))
                if was_busy:  # the end of an idle worker is told when it is asked again
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
        """Ask a runner's worker, which starts with its first batch; return how it was lost where it cannot be asked."""
        worker = self.workers.get(runner.name)
        if worker is not None and worker.over:  # it has died since its last batch
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

    def _worker(self, runner: Runner) -> Process:
        if runner.name not in self.workers:
            home = self.folder / f"worker-{len(self.workers) + len(self.dead)}"
            self.workers[runner.name] = Process(runner, home, self._inbox)
        return self.workers[runner.name]

    def _bury(self, worker: Process, kind: str, status: str) -> Lost:
        """Forget a worker that has ended."""
        self._busy.discard(worker)
        self.dead[worker.runner.name] = status
        self.workers.pop(worker.runner.name, None)
        return Lost(kind, f"{status}\n{worker.tail()}".strip())


def processors() -> int:
    """Return the number of processors that this process may use: how many workers are busy unless told otherwise."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
