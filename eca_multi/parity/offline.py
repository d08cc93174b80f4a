"""The verbs on files: run the failure of a bundle again, and compare the tensors of two files."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.safetensors import read_safetensors

from .budget.safety import SAFETY
from .define.axes import SpecError
from .define.checks import BASE
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

    A bundle names an interpreter, settings of the environment, an adapter and a reference. Those of this package run.
    Any others are a stranger's code, and run only with `trust`.

    Args:
        bundle: A folder that `run(bundles=...)` wrote.
        runner: "file.py:Class" to run another adapter on the same data; None takes the adapter that failed.
        trust: Whether code may run that the bundle names and that is not this package's.
        timeout, progress: As for `run`.
        announce: Called before anything runs, with what will run.

    Raises:
        SpecError: If the folder is no complete bundle, or names code that is not this package's and is not trusted.
    """
    refuse_in_worker("replay")
    content = read_bundle(bundle)
    job = content.job
    spec = Spec(
        content.spec["name"],
        content.spec["layout"],
        weights={},
        runners={content.runner: Runner(content.runner, content.adapter, env=content.env, python=content.python)},
        reference=content.reference,
        taps=tuple(content.spec["taps"]),
        inputs=dict.fromkeys(job.inputs, "N"),
        outputs=dict.fromkeys(job.outputs, ""),
        cases=(Case(job.case),),
        budget=Manual(**content.manual) if content.manual else None,
    )
    chosen = find_runners(spec, [runner] if runner else None)
    named_by_caller = [] if runner is None else [candidate for candidate in chosen if candidate not in runners_of(spec)]
    if not trust:
        check_trust(content, bundle, named_by_caller)
    if announce is not None:
        announce(what_runs(content, named_by_caller))
    task = Task("", Do.EVALUATE, job.case, job, (job.case, job.dtype, ""))
    batches = [(candidate, [task]) for candidate in chosen]
    return run_tasks(spec, str(bundle), [task], batches, BASE, timeout=timeout, progress=progress)


def compare(
    first: str | os.PathLike[str], second: str | os.PathLike[str], *, rtol: float = 0.0, atol: float = 0.0
) -> dict[str, Judgement]:
    """Compare two .safetensors files tensor by tensor.

    A tensor "y" is judged by "y@error" of the second file, times the stochastic budget's c. Without "y@error" it is
    judged by atol + rtol |y|, and bit by bit where no tolerance is given.

    Raises:
        SpecError: If a file cannot be read, a tolerance is negative, infinite or NaN, or a budget is not of its
            tensor's shape.
    """
    by_hand = Manual(rtol, atol)
    left, right = (_read(path) for path in (first, second))
    judgements: dict[str, Judgement] = {}
    for name in sorted({*left, *right}):
        if name.endswith(ERROR):
            continue
        if name not in left or name not in right:
            lacking = first if name not in left else second
            judgements[name] = Judgement(Verdict.MISSING_TAP, None, (), "", f"{Path(lacking).name} has no {name}")
            continue
        actual, reference = Tensor(left[name], left[name].dtype.name), right[name].astype(np.float64)
        budget = right.get(name + ERROR)
        if budget is not None and budget.shape != reference.shape:
            raise SpecError(
                f"{name}{ERROR} of {os.fspath(second)} must have the shape of {name}, {reference.shape}. "
                f"Received: {budget.shape}."
            )
        if budget is not None:
            judgements[name] = judge(actual, reference, budget, None, SAFETY["stochastic"])
        elif rtol or atol:
            judgements[name] = judge(actual, reference, by_hand.limit(reference), None)
        elif actual.dtype != (dtype := right[name].dtype.name):
            judgements[name] = Judgement(Verdict.DTYPE_MISMATCH, None, (), dtype, actual.dtype)
        else:
            judgements[name] = bits_differ(Tensor(right[name], dtype), actual)
    return judgements


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        return read_safetensors(path)[0]
    except (OSError, CheckpointError) as error:
        raise SpecError(f"{os.fspath(path)} must be a complete .safetensors file: {error}") from error
