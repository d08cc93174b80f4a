"""A worker: one process, one adapter. `python -m eca_multi.parity.execute.worker runner|reference module:Class`.

A worker reads lines from standard input, each a list of requests. It writes a line for each answer, and one at the end
of a list (messages.py). Frameworks print to standard output, so the answers go out through a copy of standard output,
made before any framework is imported.
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
from eca_multi.parity.budget.errors import whole_or_float64
from eca_multi.parity.define.adapters import Adapter, NumpyAdapter, TorchAdapter, adapter_of, unsupported
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, with_arrays
from eca_multi.parity.define.loading import VALUE, label_of, load_object
from eca_multi.parity.define.tensor import Outputs, Solution, Tensor
from eca_multi.parity.engines import ENGINES, REFERENCES
from eca_multi.parity.engines.base import Unsupported

from . import messages
from .descendants import MARK, end_marked
from .messages import Answer, Do, Request, bounded
from .results import ERRORS, VALUES, write
from .training import solve_training, train

Send = Callable[[messages.Said], object]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: messages.Said) -> None:
        answers.write(messages.encode(message) + "\n")

    # Read from now on: importing the engine may take long or hang, and the harness must not wait for a reader.
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        engine = make_engine(sys.argv[1], sys.argv[2])
    except SpecError as error:
        send(messages.WrongAdapter(bounded(error)))
        sys.exit(str(error))  # the harness shows one line of standard error
    send(messages.Greeting(engine.versions(), getattr(engine, "kind", ""), dict(engine.adapter.unsupported)))
    while (requests := messages.parse_requests(lines.get())) is not None:
        answer_all(engine, requests, send)
        send(messages.Done())


def _read(lines: "queue.Queue[str]") -> None:
    """Pass lines on. When standard input closes, the harness has ended: end this process and its descendants."""
    rest = b""
    while data := os.read(0, 65536):  # not sys.stdin: its lock would be held when the interpreter ends
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            lines.put(line.decode())
    if MARK in os.environ:
        end_marked(os.environ[MARK])
    os.killpg(0, signal.SIGKILL)


def make_engine(role: str, source: str) -> Any:
    """Import an adapter and its engine; raise SpecError if the adapter does not exist or cannot play the role."""
    name = f"{label_of(source)!r}" if source.startswith(VALUE) else source
    adapter = adapter_of(load_object(source))
    if not isinstance(adapter, (type, Adapter)) and callable(adapter) and role == "reference":
        function = adapter
        adapter = type("Function", (NumpyAdapter,), {"build": lambda self, config: function})()
    if not isinstance(adapter, Adapter):
        raise SpecError(
            f"{name} must be an adapter, or a callable without arguments that returns one. Received: {adapter!r}. "
            "Subclass TorchAdapter or another one."
        )
    if type(adapter).build is Adapter.build and getattr(adapter, "solve", None) is None:
        raise SpecError(f"{name} must have build(config), which returns the layer. It has none.")
    table = REFERENCES if role == "reference" else ENGINES
    if adapter.engine not in table:
        raise SpecError(f"{name} must be a {' or '.join(sorted(table))} adapter to be the reference.")
    module, _, cls = table[adapter.engine].partition(":")
    return getattr(import_module(module), cls)(adapter)


def answer_all(engine: Any, requests: Sequence[Request], send: Send) -> None:
    """Answer all requests of a list, the evaluations together: a compiler may take many as one."""
    evaluations: list[Request] = []
    others: list[Request] = []
    for request in requests:
        reason = unsupported(engine.adapter.unsupported, request.check, request.job.dtype if request.job else "")
        if reason:
            send(messages.Refused(request.id, bounded(reason)))
        else:
            (evaluations if request.do is Do.EVALUATE else others).append(request)
    jobs = [_job(request) for request in evaluations]
    for number, result in engine.evaluate_all(jobs) if jobs else ():
        request = evaluations[number]
        send(_fault(request, result) if isinstance(result, Exception) else _computed(request, {"": result}))
    for request in others:
        try:
            answer = _answer(engine, request)
        except Exception as error:
            answer = _fault(request, error)
        send(answer)


def _job(request: Request) -> Job:
    if request.job is None:
        raise ValueError(f"a request to {request.do} must have a job. Received: none.")
    return with_arrays(request.job, read_safetensors(request.inputs)[0])


def _answer(engine: Any, request: Request) -> Answer:
    """Answer one request. Modules that stand above this one, or need a framework, are imported by name."""
    if request.do is Do.FINGERPRINT:
        probes = import_module("eca_multi.parity.explain.fingerprints")
        return messages.Measured(request.id, probes.measure(engine.probes))
    if request.do is Do.EXPLAIN and engine.adapter.engine != TorchAdapter.engine:
        raise Unsupported("the operations of a NumPy reference are not known")  # before PyTorch is imported for them
    job = _job(request)
    if request.do is Do.EXPLAIN:
        stages, causes = import_module("eca_multi.parity.explain.hypotheses.reference").explain(engine, job)
        return messages.Explained(request.id, stages, causes)
    if request.do is Do.OUTPUTS:
        exact = {quantity: np.asarray(value) for quantity, value in engine.exact(job).items()}
        return _computed(request, {"": {q: Tensor(value, value.dtype.name) for q, value in exact.items()}})
    if request.do is Do.ROUNDTRIP:
        return _computed(request, {"": engine.roundtrip(job)})
    if request.do is Do.TRAIN:
        outputs, note = train(engine, job)
        return _computed(request, {"": outputs}, note=note)
    if request.do in (Do.POWER, Do.SIGHT):
        if "torch" not in engine.distributions:
            raise Unsupported("faults are planted in a PyTorch layer, and this adapter has none")
        layer = import_module("eca_multi.parity.mutants.layer")
        faulty = layer.mutants if request.do is Do.POWER else layer.ports
        by_mutant: dict[str, Outputs | None] = dict(faulty(engine, job))
        applied = {mutant: outputs for mutant, outputs in by_mutant.items() if outputs is not None}
        return _computed(
            request, applied, not_applicable=tuple(mutant for mutant in by_mutant if mutant not in applied)
        )
    solution: Solution = engine.solve(job) if request.do is Do.SOLVE else solve_training(engine, job)
    groups: dict[str, Outputs] = {VALUES: {}, ERRORS: {}}
    for quantity, (value, error) in solution.items():
        for group, array in ((VALUES, whole_or_float64(value)), (ERRORS, np.asarray(error, np.float64))):
            groups[group][quantity] = Tensor(array, array.dtype.name)
    return _computed(request, groups)


def _computed(request: Request, groups: Mapping[str, Outputs], **beside: Any) -> Answer:
    """Write tensors and say so."""
    try:
        return messages.Computed(request.id, write(groups, request.out), **beside)
    except OSError as error:  # a full disk
        return messages.Unwritten(request.id, bounded(error))


def _fault(request: Request, error: Exception) -> Answer:
    if isinstance(error, Unsupported):
        return messages.Refused(request.id, bounded(error))
    text = error if isinstance(error, SpecError) else _told(error)
    return messages.Raised(request.id, bounded(text))


def _told(error: Exception) -> str:
    """Return the end of a traceback. Its last line says what is wrong, and so notes, as JAX adds them, come first."""
    told = traceback.TracebackException.from_exception(error, limit=-3)
    notes, told.__notes__ = told.__notes__ or [], []
    return "".join(f"{note}\n" for note in notes) + "".join(told.format())


if __name__ == "__main__":
    main()
