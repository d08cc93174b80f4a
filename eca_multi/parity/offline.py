"""What needs no run: a bundle again, and two files beside each other."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import CheckpointError, read_safetensors

from .define.axes import SpecError
from .define.checks import BASE
from .define.dtypes import SAFETY
from .define.runners import Runner, find_runners, refuse_in_worker, runners_of
from .define.spec import Case, Manual, Spec
from .define.tensor import Tensor
from .execute.messages import Do
from .execute.tasks import Task
from .explain.bundle import ERROR, read_bundle
from .explain.trust import check_trust, what_runs
from .judge.compare import Judgement, Verdict, bits_differ, judge
from .report.report import Report
from .run import run_tasks


def replay(
    bundle: str | os.PathLike[str],
    *,
    runner: str | None = None,
    trust: bool = False,
    timeout: float = 180.0,
    progress: Callable[[str, int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Run a failure again from its bundle, and localise it.

    A bundle names an interpreter, settings of the environment, an adapter and a reference. Those of this package run;
    any others are a stranger's code until you say that you trust it.

    Args:
        bundle: A folder that `run(bundles=...)` wrote.
        runner: "file.py:Class" to run another adapter on the same data; None takes the one that failed.
        trust: Whether code that the bundle names and that is not this package's may run.
        timeout, progress: As for `run`.
        announce: Called before anything runs, with what will run.

    Raises:
        SpecError: If it is no complete bundle, or one that is not trusted and names code that is not this package's.
    """
    refuse_in_worker("replay")
    found = read_bundle(bundle)
    own = Runner(found.runner, found.adapter, env=found.env, python=found.python)
    spec = Spec(
        found.spec["name"],
        found.spec["layout"],
        weights={},
        runners={found.runner: own},
        reference=found.reference,
        taps=tuple(found.spec["taps"]),
        inputs=dict.fromkeys(found.job.inputs, "N"),
        outputs=dict.fromkeys(found.job.outputs, ""),
        cases=(Case(found.job.case),),
        budget=Manual(**found.manual) if found.manual else None,
    )
    chosen = find_runners(spec, [runner] if runner else None)
    yours = [] if runner is None else [given for given in chosen if given not in runners_of(spec)]
    if not trust:
        check_trust(found, bundle, yours)
    if announce is not None:
        announce(what_runs(found, yours))
    task = Task("", Do.EVALUATE, found.job.case, found.job, (found.job.case, found.job.dtype, ""))
    return run_tasks(
        spec, str(bundle), [task], [(runner, [task]) for runner in chosen], BASE, timeout=timeout, progress=progress
    )


def compare(
    first: str | os.PathLike[str], second: str | os.PathLike[str], *, rtol: float = 0.0, atol: float = 0.0
) -> dict[str, Judgement]:
    """Compare two .safetensors files tensor by tensor.

    A tensor "y" is judged by "y@error" of the second file, times the stochastic budget's c; else by atol + rtol |y|;
    and bit by bit where neither is given.

    Raises:
        SpecError: If a file cannot be read, a tolerance is negative, infinite or NaN, or a budget is not of its
            tensor's shape.
    """
    by_hand = Manual(rtol, atol)
    left, right = (_read(path) for path in (first, second))
    result = {}
    for name in sorted({*left, *right}):
        if name.endswith(ERROR):
            continue
        if name not in left or name not in right:
            lacking = first if name not in left else second
            result[name] = Judgement(Verdict.MISSING_TAP, None, (), "", f"{Path(lacking).name} has no {name}")
            continue
        actual, reference = Tensor(left[name], left[name].dtype.name), right[name].astype(np.float64)
        budget = right.get(name + ERROR)
        if budget is not None and budget.shape != reference.shape:
            raise SpecError(
                f"{name}{ERROR} of {os.fspath(second)} must have the shape of {name}, {reference.shape}. "
                f"Received: {budget.shape}."
            )
        if budget is not None:
            result[name] = judge(actual, reference, budget, None, SAFETY["stochastic"])
        elif rtol or atol:
            result[name] = judge(actual, reference, by_hand.limit(reference), None)
        elif actual.dtype != (dtype := right[name].dtype.name):
            result[name] = Judgement(Verdict.DTYPE_MISMATCH, None, (), dtype, actual.dtype)
        else:
            result[name] = bits_differ(Tensor(right[name], dtype), actual)
    return result


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        return read_safetensors(path)[0]
    except (OSError, CheckpointError) as error:
        raise SpecError(f"{os.fspath(path)} must be a complete .safetensors file: {error}") from error
