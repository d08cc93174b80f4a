"""The runners: each an adapter, its environment, and the packages that it needs."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .axes import SpecError
from .loading import source_of
from .spec import Spec


@dataclass(frozen=True)
class Runner:
    """A framework in a process of its own.

    In a `Spec` a `Runner` adds to its framework's runner: "keras-jax" keeps its backend beside an `env` of yours.

    Attributes:
        name: The name in reports; a `Spec` puts its key in the name's place.
        adapter: "module:Class", "file.py:Class" or, in a `Spec`, the class.
        requires: Packages that the runner needs; `extra` is this package's extra that installs them.
        env: Environment variables, set before the worker imports anything.
        python: Interpreter of another environment, to compare two versions of a framework. That environment needs numpy
            and ml_dtypes beside the framework.
        slow: Checks that a run leaves out unless the caller names them.
        framework: The name of the framework's runner in `FRAMEWORKS`; "" where it is unknown.
    """

    name: str
    adapter: Any
    requires: tuple[str, ...] = ()
    extra: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    role: str = "runner"
    slow: tuple[str, ...] = ()
    framework: str = ""

    def unavailable(self) -> str | None:
        """Return why the runner cannot run here, with the remedy, or None. Imports nothing."""
        if self.python:
            return None if shutil.which(self.python) else f"{self.python} is not an interpreter"
        missing = [name for name in self.requires if find_spec(name) is None]
        if missing:
            return f'{" and ".join(missing)} not installed; pip install "eca-multi[{self.extra}]"'
        return None


def _keras(backend: str, extra: str) -> Runner:
    slow = ("compiled",) if backend == "torch" else ()  # minutes in the C++ compiler
    return Runner(f"keras-{backend}", "", ("keras", backend), extra, {"KERAS_BACKEND": backend}, slow=slow)


# Each without an adapter, which the specification gives.
FRAMEWORKS: tuple[Runner, ...] = (
    Runner("torch", "", ("torch",), "torch"),
    _keras("tensorflow", "tensorflow"),
    _keras("jax", "keras,jax"),
    _keras("torch", "keras,torch"),
    Runner("linen", "", ("flax", "jax"), "flax"),
    Runner("nnx", "", ("flax", "jax"), "flax"),
    Runner("jax", "", ("jax",), "jax"),
    Runner("numpy", "", ("numpy",), "parity"),
)
_BACKENDS = ("keras-tensorflow", "keras-jax", "keras-torch")

# Several workers share a machine, so none may take all of its memory; and no framework shall print log lines.
WORKER_ENV = {
    "OMP_NUM_THREADS": "1",  # as many workers as processors: more threads would wait for each other
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

# Names of the workers that a run starts beside the runners: one for the reference, one for the mutants of `power`, and
# one for the hypotheses about a failure where the reference is not PyTorch's.
REFERENCE, MUTANTS, HYPOTHESES = "reference", "mutants", "hypotheses"
RESERVED = (REFERENCE, MUTANTS, HYPOTHESES)

# A switch in the caller's shell must not turn a compiled runner into an eager one.
IN_WORKER = "ECA_MULTI_PARITY_WORKER"
FORCED_ENV = {"TORCHDYNAMO_DISABLE": "0", "TORCH_COMPILE_DISABLE": "0", "JAX_DISABLE_JIT": "0", IN_WORKER: "1"}


class UsageError(SpecError):
    """A name or number that the caller got wrong, found before anything runs."""


def refuse_in_worker(what: str) -> None:
    """Raise SpecError in a worker: each worker would import the same file and start workers of its own, without end."""
    if IN_WORKER in os.environ:
        raise SpecError(
            f"parity.{what} must not run when a file is imported: each worker imports the file of its adapter. "
            'Put the call under `if __name__ == "__main__":`.'
        )


def runners_of(spec: Spec) -> list[Runner]:
    """Return a specification's runners; "keras" is one for each backend.

    Raises:
        SpecError: If a name is reserved or given twice, or no worker can import an adapter.
    """
    runners: list[Runner] = []
    for key, adapter in spec.runners.items():
        if key in RESERVED:
            raise SpecError(f"a runner must not be called {' or '.join(RESERVED)}. Received: {key!r} in {spec.name}.")
        for name in _BACKENDS if key in ("keras", "flax.keras") else (key.replace(":", "-"),):
            if any(runner.name == name for runner in runners):
                raise SpecError(f"each runner of {spec.name} must have a name of its own. Received: {name!r} twice.")
            runners.append(_runner(name, adapter))
    return runners


def find_runners(spec: Spec, names: Sequence[str] | str | None) -> list[Runner]:
    """Return the named runners (all, for None). `file.py:Class` names an adapter of the user's.

    Raises:
        UsageError: If a name is unknown or given twice, or a file does not exist.
    """
    every = runners_of(spec)
    if names is None:
        return every
    names = [names] if isinstance(names, str) else names
    known = {runner.name: runner for runner in every}
    backends = [runner for runner in every if runner.name in _BACKENDS]
    chosen: list[Runner] = []
    for name in names:
        if name == "keras" and backends:
            chosen += backends
        else:
            chosen.append(known[name] if name in known else _runner_of_file(name, list(known)))
    for runner in chosen:
        if [other.name for other in chosen].count(runner.name) > 1:
            raise UsageError(f"each runner must be named once. Received: {runner.name!r} more than once.")
    return chosen


def reference_of(spec: Spec) -> Runner:
    """Return the runner of the reference, which has a process of its own."""
    if isinstance(spec.reference, str) and ":" not in spec.reference:
        known = {runner.name: runner for runner in runners_of(spec)}
        if spec.reference not in known:
            raise UsageError(
                f"reference must be one of the runners {', '.join(known)}, an adapter or a function. "
                f"Received: {spec.reference!r}."
            )
        adapter = known[spec.reference].adapter
    else:
        adapter = source_of(spec.reference, "reference")
    return Runner(REFERENCE, adapter, role="reference")


def mutated_runner(spec: Spec) -> Runner | None:
    """Return the runner whose layer the check `power` mutates: the first of PyTorch."""
    return next((runner for runner in runners_of(spec) if runner.framework == "torch"), None)


def _runner(name: str, value: Any) -> Runner:
    """Return the framework's runner with this adapter; the fields of a `Runner` come before the framework's."""
    runner = value if isinstance(value, Runner) else Runner(name, value)
    engine = getattr(getattr(runner.adapter, "func", runner.adapter), "engine", "")  # a partial has a func
    matches = [known for known in FRAMEWORKS if f"{name}-".startswith(f"{known.name}-")]
    matches += [known for known in FRAMEWORKS if known.name == engine]
    base = next(iter(matches), Runner("", ""))
    return replace(
        runner,
        name=name,
        adapter=source_of(runner.adapter, f"runner {name!r}"),
        requires=runner.requires or base.requires,
        extra=runner.extra or base.extra,
        env={**base.env, **runner.env},
        slow=runner.slow or base.slow,
        framework=base.name,
    )


def _runner_of_file(name: str, known: list[str]) -> Runner:
    file, colon, cls = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UsageError(f"runner must be one of {', '.join(known)}, or file.py:Adapter. Received: {name!r}.")
    if not Path(file).is_file():
        raise UsageError(f"runner {name!r} must name an existing file. Received: {file!r}.")
    return Runner(f"{Path(file).stem}:{cls}", f"{Path(file).resolve()}:{cls}")


def has_compiler() -> bool:
    """Return whether torch.compile finds a C++ compiler."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")))
