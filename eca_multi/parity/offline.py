"""The verbs on files: run the failure of a bundle again, and compare the tensors of two files."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

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
from .judge.compare import Judgement, Verdict, bits_differ, judge, metrics
from .judge.reach import LEAST, reach
from .report.report import Report
from .run import run_tasks

Path_: TypeAlias = str | os.PathLike[str]
MOST_AXES = 5  # of a tensor whose transposes are tried: 120 orders


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
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    names: Mapping[str, str] | None = None,
) -> dict[str, Judgement]:
    """Compare two .safetensors files tensor by tensor.

    A tensor "y" is judged by "y@error" of the second file, times the stochastic budget's c. Without "y@error" it is
    judged by atol + rtol |y|, and bit by bit where no tolerance is given. The metrics of the errors come with every
    judgement of two arrays of one shape. Where two differ, a `hint` says under which transpose they agree; where a name
    is in one file alone, which tensor of the other file is the same, under its own name or transposed.

    Args:
        first: The file with what was computed.
        second: The file with the reference.
        rtol, atol: The tolerance by hand.
        names: Name in the first file -> name in the second, where they differ.

    Raises:
        SpecError: If a file cannot be read, a tolerance is negative, infinite or NaN, a budget is not of its tensor's
            shape, or `names` names a tensor that is not there, or one twice.
    """
    by_hand = Manual(rtol, atol)
    left, right = (_read(path) for path in (first, second))
    left = _renamed(left, right, names or {}, first, second)
    judgements: dict[str, Judgement] = {}
    for name in sorted({*left, *right}):
        if name.endswith(ERROR):
            continue
        if name not in left or name not in right:
            lacking, own, other = (first, right, left) if name not in left else (second, left, right)
            hint = _same_elsewhere(own[name], {n: a for n, a in other.items() if n not in own}, by_hand)
            verdict = Verdict.MISSING_TAP
            judgements[name] = Judgement(verdict, None, (), "", f"{Path(lacking).name} has no {name}", hint=hint)
            continue
        actual, reference = Tensor(left[name], left[name].dtype.name), right[name].astype(np.float64)
        budget = right.get(name + ERROR)
        if budget is not None and budget.shape != reference.shape:
            raise SpecError(
                f"{name}{ERROR} of {os.fspath(second)} must have the shape of {name}, {reference.shape}. "
                f"Received: {budget.shape}."
            )
        limit, c = (by_hand.limit(reference), 1.0) if budget is None else (budget, SAFETY["stochastic"])
        with np.errstate(over="ignore"):  # to infinity, which is no budget
            allowed = limit * c
        is_by_bits = budget is None and not (rtol or atol)
        if not is_by_bits:
            judgement = _judged(actual, reference, limit, c, None if budget is None else actual.dtype)
        elif actual.dtype != (dtype := right[name].dtype.name):
            judgement = Judgement(Verdict.DTYPE_MISMATCH, None, (), dtype, actual.dtype)
        else:
            judgement = bits_differ(Tensor(right[name], dtype), actual)
        if not judgement.metrics:
            judgement = replace(judgement, metrics=metrics(actual.values, reference, actual.dtype))
        order = None if judgement.verdict.green else _transpose(left[name], right[name], allowed)
        if order is not None and order != tuple(range(reference.ndim)):  # else the dtypes differ, and not the numbers
            judgement = replace(judgement, hint=f"equal if transposed by {order}")
        judgements[name] = judgement
    return judgements


def _judged(actual: Tensor, reference: np.ndarray, limit: np.ndarray, c: float, dtype: str | None) -> Judgement:
    """Judge by a budget; one as large as the reference itself says nothing, as in a run."""
    judgement = judge(actual, reference, limit, None, c)
    if judgement.verdict is Verdict.SHAPE_MISMATCH:
        return judgement
    with np.errstate(over="ignore"):
        below = reach(reference, limit * c, dtype)
    if judgement.verdict is Verdict.WITHIN_BUDGET and below is not None and below < LEAST:
        judgement = replace(
            judgement, verdict=Verdict.INCONCLUSIVE, hint="the budget is not below half of the reference"
        )
    return replace(judgement, reach=below)


def _renamed(
    left: dict[str, np.ndarray], right: Collection[str], names: Mapping[str, str], first: Path_, second: Path_
) -> dict[str, np.ndarray]:
    """Return the first file's tensors by their names in the second."""
    for name, known, file in [*((n, left, first) for n in names), *((n, right, second) for n in names.values())]:
        if name not in known:
            raise SpecError(f"names must name tensors of both files. Received: {name!r}, not in {os.fspath(file)}.")
    new = [names.get(name, name) for name in left]
    if twice := next((name for name in new if new.count(name) > 1), None):
        raise SpecError(f"names must give each tensor a name of its own. Received: {twice!r} for two of them.")
    return dict(zip(new, left.values(), strict=True))


def _same_elsewhere(array: np.ndarray, others: Mapping[str, np.ndarray], by_hand: Manual) -> str:
    """Name the tensors of the other file that hold the same numbers, as they are or transposed; "" where none does."""
    found = []
    for name, other in others.items():
        if not name.endswith(ERROR) and (order := _transpose(other, array, by_hand.limit(array.astype(np.float64)))):
            plain = order == tuple(range(array.ndim))
            found.append(name if plain else f"{name} transposed by {order}")
    return f"equal to {' or '.join(found)} of the other file" if found else ""


def _transpose(array: np.ndarray, wanted: np.ndarray, limit: np.ndarray) -> tuple[int, ...] | None:
    """Return the order of axes in which an array is within the limit of another; None where there is none.

    A tensor of fewer than two different numbers tells no order.
    """
    if array.ndim != wanted.ndim or array.ndim > MOST_AXES or not array.size or (array == array.flat[0]).all():
        return None
    bounds = limit if limit.shape == wanted.shape else np.zeros(wanted.shape)
    for order in permutations(range(array.ndim)):
        moved = array.transpose(order)
        if moved.shape == wanted.shape:
            with np.errstate(invalid="ignore", over="ignore"):
                off = np.abs(moved.astype(np.float64) - wanted.astype(np.float64))
            if (off <= bounds).all():
                return order
    return None


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        return read_safetensors(path)[0]
    except (OSError, CheckpointError) as error:
        raise SpecError(f"{os.fspath(path)} must be a complete .safetensors file: {error}") from error
