"""A pool of the harness whose workers are in this process: each framework is imported once, for all layers.

A run of the bench is a `parity.run` with this pool in place of the one that starts processes; all else is the user's
run. The bench has some hundred runs, and starting their workers would take most of the time.
"""

import hashlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from eca_multi.parity.define.runners import Runner
from eca_multi.parity.execute import messages, worker
from eca_multi.parity.execute.messages import Do, Request
from eca_multi.parity.execute.pool import Lost

T = TypeVar("T")

# What the reference and the right torch port say to a job, since each fault of a layer asks the same again.
_known: dict[tuple[str, ...], tuple[messages.Said, bytes]] = {}


class LocalPool:
    """Answers requests in this process, in the order of the runners."""

    def __init__(self, folder: Path, *, workers: int, timeout: float) -> None:
        self._engines: dict[str, Any] = {}

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._engines.clear()

    def run(self, batches: Sequence[tuple[Runner, Sequence[Request]]]) -> Iterator[tuple[Runner, Any]]:
        for runner, requests in batches:
            if not requests:
                continue
            if runner.name not in self._engines:
                try:
                    engine = worker.make_engine(runner.role, runner.adapter)
                except Exception as error:
                    yield runner, Lost("crashed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
                    continue
                self._engines[runner.name] = engine
                kind = getattr(engine, "kind", "")
                yield runner, messages.Greeting(engine.versions(), kind, dict(engine.adapter.unsupported))
            for said in _answers(runner, self._engines[runner.name], requests):
                yield runner, said
            yield runner, messages.Done()

    def condemn(self, runner: Runner, fault: str) -> Lost:
        return Lost("crashed", fault)


def _answers(runner: Runner, engine: Any, requests: Sequence[Request]) -> Iterator[messages.Said]:
    keeps = runner.name in ("reference", "torch") or all(request.do is Do.FINGERPRINT for request in requests)
    left: list[Request] = []
    keys = {request.id: _key(runner, engine, request) for request in requests} if keeps else {}
    for request in requests:
        if keeps and keys[request.id] in _known:
            said, data = _known[keys[request.id]]
            if data:
                request.out.write_bytes(data)
            yield _numbered(said, request.id)
        else:
            left.append(request)
    out = {request.id: request.out for request in left}
    said_now: list[messages.Said] = []
    if left:
        worker.answer_all(engine, left, said_now.append)
    for said in said_now:
        if keeps and isinstance(said, messages.Computed | messages.Measured):
            _known[keys[said.id]] = said, out[said.id].read_bytes() if isinstance(said, messages.Computed) else b""
        yield said


def _numbered(said: Any, number: int) -> Any:
    return type(said)(**{**vars(said), "id": number})


def _key(runner: Runner, engine: Any, request: Request) -> tuple[str, ...]:
    if request.job is None or request.do is Do.FINGERPRINT:
        return (str(request.do), engine.probes)
    data = hashlib.sha256(request.inputs.read_bytes()).hexdigest()
    return runner.role, runner.adapter, str(request.do), repr(messages.pack_job(request.job)[0]), data


@contextmanager
def in_process() -> Iterator[None]:
    """Within this context `parity.run` runs every runner in this process, and does not shrink the case of a failure."""
    run, investigate = (import_module(f"eca_multi.parity.{name}") for name in ("run", "explain.investigate"))
    with mock.patch.object(run, "Pool", LocalPool), mock.patch.object(investigate, "shrink", _as_it_is):
        yield


def _as_it_is(bench: Any, judge: Any, job: T, tensor: str) -> T:
    """Return the job in place of a smaller one: JAX would compile each size, and the bench does not look at sizes."""
    return job
