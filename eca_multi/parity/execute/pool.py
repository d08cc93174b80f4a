"""The workers of a run: which worker is busy, which has ended and how. A worker stays until the pool closes."""

import os
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eca_multi.parity.define.runners import Runner

from .messages import Done, Request, Said
from .process import Closed, Inbox, NotStarted, Process

PAUSE = 1.0  # seconds between two looks at the workers that mean that the harness itself has paused


@dataclass(frozen=True)
class Lost:
    """The end of a worker with requests that it has not answered. `kind` is "crashed" or "timed out"."""

    kind: str
    detail: str


class Pool:
    """Persistent workers, `workers` of them busy at a time.

    A worker that dies, is silent for `timeout` seconds, or writes a line that is no message, costs its own results
    only. However a run ends, no worker outlives its pool.
    """

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self.folder, self.limit, self.timeout = folder, workers, timeout
        self.workers: dict[str, Process] = {}
        self.dead: dict[str, str] = {}  # by runner: how its worker ended
        self._inbox: Inbox = queue.Queue()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        while waiting or self._busy():
            # After a pause of the harness (it was stopped, or busy with a result) messages may lie in the inbox or be
            # on their way, so silence counts only after the harness has listened.
            looked, before = time.monotonic(), looked
            has_listened = looked - before < PAUSE and self._inbox.empty()
            while waiting and len(self._busy()) < self.limit:
                runner, requests = waiting.pop(0)
                if lost := self._start(runner, requests):
                    yield runner, lost
            for worker in self._busy():
                worker.free_pipes()
                if has_listened and time.monotonic() - worker.heard > self.timeout:
                    worker.kill()
                    yield worker.runner, self._bury(worker, "timed out", f"said nothing for {self.timeout:g} s")
            try:
                worker, said = self._inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if self.workers.get(worker.runner.name) is not worker:  # the last message of a worker that the pool ended
                continue
            if isinstance(said, Closed):
                lost = self._bury(worker, "crashed", worker.end(said.fault))
                if worker.busy:  # the next request to an idle worker tells its end
                    yield worker.runner, lost
            else:
                if isinstance(said, Done):
                    worker.busy = False
                yield worker.runner, said

    def condemn(self, runner: Runner, fault: str) -> Lost:
        """End a worker whose file does not hold its answer."""
        worker = self.workers.get(runner.name)
        if worker is None:
            return Lost("crashed", self.dead.get(runner.name, fault))
        worker.kill()
        return self._bury(worker, "crashed", fault)

    def _busy(self) -> list[Process]:
        return [worker for worker in self.workers.values() if worker.busy]

    def _start(self, runner: Runner, requests: Sequence[Request]) -> Lost | None:
        """Send requests to a runner's worker, which starts with its first batch; return the end of one that is lost."""
        worker = self.workers.get(runner.name)
        if worker is not None and worker.over:  # it has died since its last batch
            self._bury(worker, "crashed", worker.end(""))
        if runner.name in self.dead:
            return Lost("crashed", f"ended earlier in this run: {self.dead[runner.name]}")
        if worker is None:
            home = self.folder / f"worker-{len(self.workers) + len(self.dead)}"
            try:
                worker = self.workers[runner.name] = Process(runner, home, self._inbox)
            except NotStarted as error:
                self.dead[runner.name] = str(error)
                return Lost("crashed", str(error))
        worker.ask(requests)
        return None

    def _bury(self, worker: Process, kind: str, status: str) -> Lost:
        """Forget a worker that has ended."""
        self.dead[worker.runner.name] = status
        self.workers.pop(worker.runner.name, None)
        return Lost(kind, f"{status}\n{worker.tail()}".strip())


def processors() -> int:
    """Return the number of processors that this process may use, and so of busy workers by default."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
