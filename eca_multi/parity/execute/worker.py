"""A worker: one process, one adapter. `python -m eca_multi.parity.execute.worker runner|reference module:Class`.

It reads lines from standard input, each a list of requests, and writes a line for each answer and one when a list is
done (messages.py has all of them). Frameworks print to standard output as they like, so the answers go out through a
copy of it made before any framework is imported.
"""

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from eca_multi.checkpoints.safetensors import read_safetensors
from eca_multi.parity.define.adapters import Adapter, NumpyAdapter, unsupported
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, with_arrays
from eca_multi.parity.define.loading import load_object
from eca_multi.parity.define.tensor import Outputs, Solution, Tensor
from eca_multi.parity.engines import ENGINES, REFERENCES
from eca_multi.parity.engines.base import Unsupported

from .descendants import MARK, end_marked
from .messages import (
    Answer,
    Computed,
    Do,
    Done,
    Greeting,
    Measured,
    Raised,
    Refused,
    Request,
    Said,
    Unwritten,
    WrongAdapter,
    bounded,
    encode,
    parse_requests,
)
from .results import ERRORS, VALUES, write
from .training import solve_training, train

Send = Callable[[Said], object]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: Said) -> None:
        answers.write(encode(message) + "\n")

    # Read before the engine is imported, which may take long or hang: the harness never waits to be read.
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        engine = make_engine(sys.argv[1], sys.argv[2])
    except SpecError as error:
        send(WrongAdapter(bounded(error)))
        sys.exit(str(error))  # one line on standard error is what the harness shows
    send(Greeting(engine.versions(), getattr(engine, "kind", ""), dict(engine.adapter.unsupported)))
    while (requests := parse_requests(lines.get())) is not None:
        answer_all(engine, requests, send)
        send(Done())


def _read(lines: "queue.Queue[str]") -> None:
    """Pass lines on. When standard input closes, the harness has ended: end this process and all that it started."""
    rest = b""
    while data := os.read(0, 65536):  # not sys.stdin: its lock would be held when the interpreter ends
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            lines.put(line.decode())
    if MARK in os.environ:
        end_marked(os.environ[MARK])
    os.killpg(0, signal.SIGKILL)


def make_engine(role: str, source: str) -> Any:
    """Import an adapter, and the engine that it names.

    Raises:
        SpecError: If there is no such adapter, or none that can do what it is for.
    """
    adapter = load_object(source)
    if not isinstance(adapter, type) and callable(adapter) and role == "reference":
        function = adapter
        adapter = type("Function", (NumpyAdapter,), {"build": lambda self, config: function})
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise SpecError(f"{source} must be an adapter. Received: {adapter!r}. Subclass TorchAdapter or another one.")
    if adapter.build is Adapter.build and getattr(adapter, "solve", None) is None:
        raise SpecError(f"{source} must have build(config), which returns the layer. It has none.")
    table = REFERENCES if role == "reference" else ENGINES
    if adapter.engine not in table:
        raise SpecError(f"{source} must be a {' or '.join(sorted(table))} adapter to be the reference.")
    module, _, name = table[adapter.engine].partition(":")
    return getattr(import_module(module), name)(adapter())


def answer_all(engine: Any, requests: Sequence[Request], send: Send) -> None:
    """Do all requests of a list: the evaluations together, since a compiler may take many as one."""
    evaluations: list[Request] = []
    others: list[Request] = []
    for request in requests:
        reason = unsupported(engine.adapter.unsupported, request.check, request.job.dtype if request.job else "")
        if reason:
            send(Refused(request.id, bounded(reason)))
        else:
            (evaluations if request.do is Do.EVALUATE else others).append(request)
    jobs = [_job(request) for request in evaluations]
    for number, result in engine.evaluate_all(jobs) if jobs else ():
        request = evaluations[number]
        send(_fault(request, result) if isinstance(result, Exception) else _computed(request, {"": result}))
    for request in others:
        try:
            answer = _DO[request.do](engine, request)
        except Exception as error:
            answer = _fault(request, error)
        send(answer)


def _job(request: Request) -> Job:
    if request.job is None:
        raise ValueError(f"a request to {request.do} must have a job. Received: none.")
    return with_arrays(request.job, read_safetensors(request.inputs)[0])


def _fingerprint(engine: Any, request: Request) -> Answer:
    """Measure by name: the probes stand above this module, beside what explains them."""
    probes = import_module("eca_multi.parity.explain.fingerprints")
    return Measured(request.id, probes.measure(engine.probes))


def _roundtrip(engine: Any, request: Request) -> Answer:
    return _computed(request, {"": engine.roundtrip(_job(request))})


def _solve(engine: Any, request: Request) -> Answer:
    return _solved(request, engine.solve(_job(request)))


def _solve_training(engine: Any, request: Request) -> Answer:
    return _solved(request, solve_training(engine, _job(request)))


def _train(engine: Any, request: Request) -> Answer:
    outputs, note = train(engine, _job(request))
    return _computed(request, {"": outputs}, note=note)


def _power(engine: Any, request: Request) -> Answer:
    mutants = import_module("eca_multi.parity.mutants.layer").mutants
    by_mutant: dict[str, Outputs | None] = dict(mutants(engine, _job(request)))
    not_applicable = tuple(mutant for mutant, outputs in by_mutant.items() if outputs is None)
    return _computed(
        request,
        {mutant: outputs for mutant, outputs in by_mutant.items() if outputs is not None},
        not_applicable=not_applicable,
    )


_DO: Mapping[Do, Callable[[Any, Request], Answer]] = {
    Do.SOLVE: _solve,
    Do.TRAIN: _train,
    Do.SOLVE_TRAINING: _solve_training,
    Do.POWER: _power,
    Do.ROUNDTRIP: _roundtrip,
    Do.FINGERPRINT: _fingerprint,
}


def _solved(request: Request, solution: Solution) -> Answer:
    values = {quantity: np.asarray(value) for quantity, (value, _) in solution.items()}
    values = {q: value if value.dtype.kind in "biu" else value.astype(np.float64) for q, value in values.items()}
    errors = {quantity: np.asarray(error, np.float64) for quantity, (_, error) in solution.items()}
    groups = {VALUES: values, ERRORS: errors}
    return _computed(
        request, {group: {q: Tensor(a, a.dtype.name) for q, a in arrays.items()} for group, arrays in groups.items()}
    )


def _computed(request: Request, groups: Mapping[str, Outputs], **beside: Any) -> Answer:
    """Write tensors and say so."""
    try:
        return Computed(request.id, write(groups, request.out), **beside)
    except OSError as error:  # a full disk
        return Unwritten(request.id, bounded(error))


def _fault(request: Request, error: Exception) -> Answer:
    if isinstance(error, Unsupported):
        return Refused(request.id, bounded(error))
    text = error if isinstance(error, SpecError) else "".join(traceback.format_exception(error, limit=-3))
    return Raised(request.id, bounded(text))


if __name__ == "__main__":
    main()
