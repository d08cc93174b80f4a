"""Run a worker over networks of one package, and another one after a network that hangs or ends the process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from tempfile import gettempdir
from threading import Thread
from typing import Any

from benchmarks.zoo.worker import MARK

ENVIRONMENT = {
    "OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu",
    # Each operation of a small network runs a few times: compiling takes longer than running.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_COMPILATION_CACHE_DIR": f"{gettempdir()}/eca-zoo-jax", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}  # fmt: skip


def records(
    framework: str, names: Sequence[str], limit: float, folder: Path, without: str = "-", backend: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield a record for each network, in order.

    Args:
        limit: Seconds for one network.
        folder: The working directory, where the `benchmarks` package is.
        without: Steps to leave out, with commas between them, or "-".
        backend: Keras's, which stands in the records; "" for another framework.
    """
    left = list(names)
    of_keras = {"backend": backend} if backend else {}
    while left:
        for record in _of_one_process(framework, left, limit, folder, without, backend):
            yield record | of_keras
            left.remove(record["name"])


def _of_one_process(
    framework: str, names: Sequence[str], limit: float, folder: Path, without: str, backend: str
) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo.worker", framework, without, *names]
    environment = ENVIRONMENT | os.environ | ({"KERAS_BACKEND": backend} if backend else {})
    commit = _commit(folder)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    lines: Queue[str | None] = Queue()
    Thread(target=_read, args=(process, lines), daemon=True).start()
    try:
        for name in names:
            line = _next(lines, limit)
            if line is None:
                status = process.poll()
                said = f"took more than {limit:.0f} s" if status is None else f"the process ended with {status}"
                yield {"framework": framework, "name": name, "broken": said, "seconds": limit, "commit": commit}
                return
            yield json.loads(line.removeprefix(MARK)) | {"commit": commit}
    finally:
        _end(process)


def _commit(folder: Path) -> str:
    """Return the commit of the package and of the harness, with a "+" where files differ from it; "" without git."""
    git = ["git", "-C", str(folder)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        code = ("eca_multi", "benchmarks")
        changed = subprocess.run([*git, "status", "--porcelain", *code], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + ("+" if changed.stdout else "")


def _read(process: "subprocess.Popen[str]", lines: "Queue[str | None]") -> None:
    for line in process.stdout or ():
        if line.startswith(MARK):
            lines.put(line)
    process.wait()
    lines.put(None)


def _next(lines: "Queue[str | None]", limit: float) -> str | None:
    try:
        return lines.get(timeout=limit)
    except Empty:
        return None


def _end(process: "subprocess.Popen[str]") -> None:
    """End the worker and its other process."""
    if process.poll() is None or process.stdin is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
    process.wait()
