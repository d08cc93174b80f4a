"""A worker: one process, one adapter. `python -m eca_multi.parity.execute.worker runner|reference module:Class`.

It reads lines of JSON from standard input, each a list of requests, and writes a line for each result and one when a
list is done (messages.py has all of them); null ends it. Frameworks print to standard output as they like, so the
answers go out through a copy of it made before any framework is imported.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from eca_multi.checkpoints.safetensors import read_safetensors
from eca_multi.parity.define.adapters import unsupported
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.job import Job, Outputs, unpack_job
from eca_multi.parity.define.loading import load_object
from eca_multi.parity.engines import ENGINES, REFERENCES
from eca_multi.parity.engines.base import Unsupported

from .descendants import MARK, end_marked
from .messages import bounded
from .results import write_arrays

Send = Callable[[dict[str, Any]], None]
Request = dict[str, Any]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    # Before the engine, whose import may take long or hang: nobody has to wait until what is asked is read.
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    try:
        engine = make_engine(sys.argv[1], sys.argv[2])
    except SpecError as error:
        send({"wrong": bounded(error)})
        sys.exit(str(error))  # one line on standard error is what the harness shows
    send(
        {
            "versions": engine.versions(),
            "budget": getattr(engine, "kind", ""),
            "cannot": dict(engine.adapter.unsupported),
        }
    )
    while (requests := json.loads(lines.get())) is not None:
        answer_all(engine, requests, send)
        send({"done": True})


def _read(lines: "queue.Queue[str]") -> None:
    """Pass lines on. Standard input closes when the harness is gone, however it went; then all here ends."""
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
    from eca_multi.parity.define.adapters import Adapter, NumpyAdapter

    found = load_object(source)
    if not isinstance(found, type) and callable(found) and role == "reference":
        function = found
        found = type("Function", (NumpyAdapter,), {"build": lambda self, config: function})
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise SpecError(f"{source} must be an adapter. Received: {found!r}. Subclass TorchAdapter or another one.")
    if found.build is Adapter.build and getattr(found, "solve", None) is None:
        raise SpecError(f"{source} must have build(config), which returns the layer. It has none.")
    table = REFERENCES if role == "reference" else ENGINES
    if found.engine not in table:
        raise SpecError(f"{source} must be a {' or '.join(sorted(table))} adapter to be the reference.")
    module, _, name = table[found.engine].partition(":")
    return getattr(import_module(module), name)(found())


def answer_all(engine: Any, requests: Sequence[Request], send: Send) -> None:
    """Do all requests of a list: the evaluations together, since a compiler may take many as one."""
    requests = [request for request in requests if not _refused(engine, request, send)]
    evaluations = [request for request in requests if request["do"] == "evaluate"]
    jobs = [_job(request) for request in evaluations]
    for number, result in engine.evaluate_all(jobs) if jobs else ():
        _answer(send, evaluations[number], result)
    for request in requests:
        if request["do"] != "evaluate":
            try:
                result = _DO[request["do"]](engine, request)
            except Exception as error:
                result = error
            _answer(send, request, result)


def _refused(engine: Any, request: Request, send: Send) -> bool:
    dtype = request.get("job", {}).get("dtype", "")
    reason = unsupported(engine.adapter.unsupported, request.get("check", ""), dtype)
    if reason:
        send({"id": request["id"], "unsupported": bounded(reason)})
    return bool(reason)


def _job(request: Request) -> Job:
    return unpack_job(request["job"], read_safetensors(request["inputs"])[0])


def _solve(engine: Any, request: Request) -> Any:
    from eca_multi.parity.budget.noisy_array import whole_or_float64
    from eca_multi.parity.define.job import Tensor

    solved = engine.solve(_job(request))
    values = {name: whole_or_float64(value) for name, (value, _) in solved.items()}
    results = {name: Tensor(value, value.dtype.name) for name, value in values.items()}
    errors = {f"{name}@error": Tensor(np.asarray(error, np.float64), "float64") for name, (_, error) in solved.items()}
    return {**results, **errors}


def _train(engine: Any, request: Request) -> Any:
    from eca_multi.parity.judge.trajectories import reference_run, runner_run

    job, is_reference = _job(request), hasattr(engine, "solve")
    found: dict[str, Any] = dict((reference_run if is_reference else runner_run)(engine, job))
    settings = job.training or {}
    if settings.get("native") and not is_reference:
        found["note"] = engine.optimizer(settings["optimizer"]).note
    return found


def _power(engine: Any, request: Request) -> Any:
    """Every mutant's results, under names that start with the mutant's."""
    mutants = import_module("eca_multi.parity.mutants.layer").mutants
    found = dict(mutants(engine, _job(request)))
    results = {f"{mutant}|{name}": t for mutant, outputs in found.items() for name, t in (outputs or {}).items()}
    return {**results, "not_applicable": [mutant for mutant, outputs in found.items() if outputs is None]}


_DO: dict[str, Callable[[Any, Request], Any]] = {
    "solve": _solve,
    "train": _train,
    "power": _power,
    "roundtrip": lambda engine, request: engine.roundtrip(_job(request)),
    "fingerprint": lambda engine, request: {"fingerprint": engine.fingerprint()},
}


_BESIDE = {"power": "not_applicable", "train": "note"}  # what comes with the tensors, and is none


def _answer(send: Send, request: Request, result: Outputs | Exception) -> None:
    message: dict[str, Any] = {"id": request["id"]}
    if isinstance(result, Exception):
        if isinstance(result, (Unsupported, SpecError)):
            send({**message, "unsupported" if isinstance(result, Unsupported) else "error": bounded(result)})
        else:
            text = "".join(traceback.format_exception(result, limit=-3))
            send({**message, "error": bounded(text)})
    elif request["do"] == "fingerprint":
        send({**message, **result})
    else:
        beside = _BESIDE.get(request["do"], "")
        if beside in result:
            message[beside] = result.pop(beside)
        try:
            write_arrays({name: tensor.values for name, tensor in result.items()}, request["out"])
        except OSError as error:  # a full disk
            send({**message, "unwritten": bounded(error)})
            return
        send({**message, "dtypes": {name: tensor.dtype for name, tensor in result.items()}})


if __name__ == "__main__":
    main()
