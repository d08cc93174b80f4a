"""One worker's process: the harness starts it, talks with it, times it and ends it here."""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from eca_multi._files.scratch import PLACE
from eca_multi.parity.define.runners import FORCED_ENV, WORKER_ENV, Runner

from .descendants import MARK, end_marked
from .messages import LONGEST, TEXT, Done, Malformed, Request, Said, bounded, encode_requests, parse

GRACE = 10.0  # seconds between the last word to a worker and its end
TAIL = 15  # lines of a worker's standard error that are shown when it dies, out of its last TEXT bytes


@dataclass(frozen=True)
class Closed:
    """The end of a worker's pipe. `fault` says why a line was no message, if that ended the pipe."""

    fault: str


Inbox: TypeAlias = "queue.Queue[tuple[Process, Said | Closed]]"


class NotStarted(Exception):
    """The interpreter of a worker does not start on this machine."""


def _cache(folder: Path) -> dict[str, str]:
    """Return where JAX keeps what it compiles, for the workers of a run: linen, nnx and JAX often compile the same."""
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


class Process:
    """One process with one adapter. All processes that it starts, known by its group and a mark, end with it.

    Raises:
        NotStarted: If the interpreter does not run.
    """

    def __init__(self, runner: Runner, folder: Path, inbox: Inbox) -> None:
        self.runner = runner
        self.heard = time.monotonic()
        self.busy = self.over = False
        self._asked = False  # whether a list of requests is not done
        self._open: set[int] = set()  # the requests without an answer
        self._words = b""  # the end of its standard error
        self._mark = secrets.token_hex(16)
        environment = {**WORKER_ENV, **_cache(folder.parent), **os.environ, **FORCED_ENV, **runner.env}
        environment[MARK] = self._mark
        environment[PLACE] = str(folder)  # a worker that is killed cannot clear up
        python = runner.python or sys.executable
        try:
            folder.mkdir()
            if runner.python:  # lend the other environment this package, and no package installed beside it
                (folder / "lent").mkdir()
                (folder / "lent" / "eca_multi").symlink_to(Path(__file__).parents[2])
                environment["PYTHONPATH"] = str(folder / "lent")
            self.process = subprocess.Popen(
                # -P: a folder of the current directory must not shadow the framework of the same name
                [python, "-P", "-m", "eca_multi.parity.execute.worker", runner.role, runner.adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # a worker could fill the disk with a file
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
        """Hand over a list of requests."""
        self.heard, self.busy = time.monotonic(), True
        self._open |= {request.id for request in requests}
        self._asked = True  # last: a worker that says "done" before that is caught by one of the two checks in `parse`
        self._lines.put(encode_requests(requests))

    def leave(self) -> None:
        """Ask the worker to end, and wait for its end."""
        self._lines.put(encode_requests(None))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.kill()

    def _write(self, pipe: IO[bytes]) -> None:
        """Write from a thread: a worker that does not read yet must not block the harness."""
        with contextlib.suppress(OSError), pipe:  # the worker has died, and its reader reports that
            while (line := self._lines.get()) is not None:
                pipe.write(f"{line}\n".encode())
                pipe.flush()

    def _listen(self, pipe: IO[bytes], inbox: Inbox) -> None:
        """Pass on each message, and at last the end of the pipe."""
        fault, greeted = "", False
        try:
            with pipe:
                while line := pipe.readline(LONGEST):
                    if len(line) == LONGEST and not line.endswith(b"\n"):
                        raise Malformed(f"a line must be shorter than {LONGEST} bytes")
                    self.heard = time.monotonic()  # not when the pool takes the message
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
        """Keep as much of the end of a worker's standard error as a report shows."""
        with pipe:
            while data := os.read(pipe.fileno(), 65536):
                self._words = (self._words + data)[-TEXT:]

    def tail(self) -> str:
        """Return the last lines of its standard error."""
        words = self._words.decode(errors="replace")
        if len(self._words) == TEXT:  # the first line has lost its beginning
            words = words.partition("\n")[2] or words
        return bounded("\n".join(words.strip().splitlines()[-TAIL:]))

    def end(self, fault: str) -> str:
        """End the processes that a worker with a closed pipe has left, and return how the worker ended."""
        status = fault or f"exit status {self.process.poll()}"
        self.kill()
        return status

    def kill(self) -> None:
        """End the worker, all that it started, and the threads that talk with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end_marked(self._mark)
        self._lines.put(None)
        for thread in self._threads:
            thread.join(GRACE)

    def free_pipes(self) -> None:
        """End the processes that a dead worker started, which may hold its pipes open."""
        if self.process.poll() is not None and not self.over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            end_marked(self._mark)
