"""The runners: which adapter, in which environment, needing what."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ADAPTERS = "eca_multi.parity.adapters"


@dataclass(frozen=True)
class Runner:
    """A framework, in a mode, in a process of its own.

    `adapter` is "module:Class" or "file.py:Class"; `extra` is what to install where one of `requires` is missing; `env`
    is set before the worker imports anything.
    """

    name: str
    adapter: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    compiler: bool = False

    def unavailable(self) -> str | None:
        """Return why the runner cannot run here, with the remedy, or None. Imports nothing."""
        missing = [name for name in self.requires if find_spec(name) is None]
        if missing:
            return f'{" and ".join(missing)} not installed; pip install "eca-multi[{self.extra}]"'
        compilers = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
        if self.compiler and not any(map(shutil.which, compilers)):
            return "torch.compile needs a C++ compiler, and none was found; install g++ or set CXX"
        return None


def _keras(backend: str, extra: str) -> Runner:
    return Runner(
        f"keras-{backend}",
        f"{ADAPTERS}._keras:KerasAdapter",
        ("keras", backend),
        extra,
        {"KERAS_BACKEND": backend},
    )


RUNNERS: tuple[Runner, ...] = (
    Runner("torch", f"{ADAPTERS}._torch:TorchAdapter", ("torch",), "torch"),
    Runner("torch-compiled", f"{ADAPTERS}._torch:TorchCompiledAdapter", ("torch",), "torch", compiler=True),
    _keras("tensorflow", "tensorflow"),
    _keras("jax", "keras,jax"),
    _keras("torch", "keras,torch"),
    Runner("linen", f"{ADAPTERS}._linen:LinenAdapter", ("flax", "jax"), "flax"),
    Runner("nnx", f"{ADAPTERS}._nnx:NnxAdapter", ("flax", "jax"), "flax"),
    Runner("jax", f"{ADAPTERS}._jax:JaxAdapter", ("jax",), "jax"),
)

# Several workers share a device, so none may take all of its memory at once; and no log lines of a framework's own.
WORKER_ENV = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

# A switch in the caller's shell must not turn a compiled runner into an eager one.
FORCED_ENV = {"TORCHDYNAMO_DISABLE": "0", "TORCH_COMPILE_DISABLE": "0", "JAX_DISABLE_JIT": "0"}


class UsageError(ValueError):
    """A name or number that the caller got wrong, found before anything runs."""


def find_runners(names: Sequence[str] | None) -> list[Runner]:
    """Return the named runners (all, for None). `file.py:Class` names an `Adapter` of the user's own.

    Raises:
        UsageError: If a name is unknown or given twice, or a file does not exist.
    """
    if names is None:
        return list(RUNNERS)
    known = {runner.name: runner for runner in RUNNERS}
    chosen = [known[name] if name in known else _own_runner(name, list(known)) for name in names]
    for runner in chosen:
        if [other.name for other in chosen].count(runner.name) > 1:
            raise UsageError(f"each runner must be named once. Received: {runner.name!r} more than once.")
    return chosen


def _own_runner(name: str, known: list[str]) -> Runner:
    file, colon, cls = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UsageError(f"runner must be one of {', '.join(known)}, or file.py:Adapter. Received: {name!r}.")
    if not Path(file).is_file():
        raise UsageError(f"runner {name!r} must name an existing file. Received: {file!r}.")
    return Runner(f"{Path(file).stem}:{cls}", f"{Path(file).resolve()}:{cls}")
