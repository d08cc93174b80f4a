"""A worker: one process, one adapter. `python -m eca_multi.parity.worker module:Class`.

It reads one line of JSON, the list of jobs, from standard input and writes a line for each result. Frameworks print to
standard output as they like, so the answers go out through a copy of it made before any framework is imported.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .jobs import TENSORS, Job, Outputs

Send = Callable[[dict[str, Any]], None]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    adapter = load_class(sys.argv[1])()
    send({"versions": adapter.versions()})
    requests = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jobs = [_read(request) for request in requests]
    paths = {id(job): request["outputs"] for job, request in zip(jobs, requests, strict=True)}
    for job, result in adapter.run_all(jobs):
        _answer(send, job, result, paths[id(job)])


def _end_with_parent() -> None:
    """Standard input closes when the harness is gone, however it went; end this process and all that it started."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.killpg(0, signal.SIGKILL)


def load_class(spec: str) -> Any:
    """Import "module:Class", or "file.py:Class"."""
    source, _, name = spec.rpartition(":")
    if source.endswith(".py"):
        sys.path.append(os.path.dirname(source))  # at the end: what lies beside the file hides nothing
        file = spec_from_file_location(f"eca_parity_{os.path.basename(source)[:-3]}", source)
        if file is None or file.loader is None:
            raise ImportError(f"cannot load {source}")
        module = module_from_spec(file)
        sys.modules[file.name] = module
        file.loader.exec_module(module)
    else:
        module = import_module(source)
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        sys.exit(f"{source} has no adapter {name!r}. It has: {', '.join(classes) or 'no class'}.")
    return getattr(module, name)


def _read(request: dict[str, Any]) -> Job:
    fields = {name: request[name] for name in ("case", "dtype", "options", "other_axis")}
    return Job(**fields, arrays=load_file(request["inputs"]))


def _answer(send: Send, job: Job, result: Outputs | str, path: str) -> None:
    message: dict[str, Any] = {"case": job.case, "dtype": job.dtype}
    if not isinstance(result, str) and set(result) != set(TENSORS):
        result = f"run must return exactly {', '.join(TENSORS)}. Received: {', '.join(result)}."
    if isinstance(result, str):
        send({**message, "error": result})
        return
    save_file({name: np.ascontiguousarray(tensor.values) for name, tensor in result.items()}, path)
    send({**message, "outputs": path, "dtypes": {name: tensor.dtype for name, tensor in result.items()}})


if __name__ == "__main__":
    main()
