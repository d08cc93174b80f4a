"""The tasks of a run: the evaluations that the checks need, and their data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.draw import Drawn, draw
from eca_multi.parity.define.dtypes import quantise
from eca_multi.parity.define.job import Arrays, Job, is_float
from eca_multi.parity.define.sources import Rng
from eca_multi.parity.define.spec import Case, Spec, Training

from .messages import Do

Key: TypeAlias = tuple[str, str, str]  # case, dtype, and the check where it has data of its own
NONFINITE = {"nan": np.nan, "inf": np.inf}


@dataclass(frozen=True)
class Task:
    """A task for every runner. `oracle` names the solution that judges the answers; tasks may share a solution."""

    check: str
    do: Do  # evaluate, roundtrip or train
    case: str
    job: Job
    oracle: Key | None

    @property
    def key(self) -> Key:
        return self.case, self.job.dtype, self.check


def tasks(
    spec: Spec, cases: Sequence[Case], dtypes: Sequence[str], checks: Sequence[str], *, native: bool = False
) -> list[Task]:
    """Return all tasks of a run in the order of dtypes, cases and checks.

    Frameworks train with their own optimizers if `native` is set.

    Raises:
        SpecError: If the data of a case cannot be right.
    """
    every: list[Task] = []
    for dtype in dtypes:
        for case in cases:
            drawn = draw(spec, case)
            _check_config(case, drawn.config)
            every += _case_tasks(spec, case, drawn, dtype, checks, native)
    if "nonfinite" in checks:
        case = next((case for case in cases if case.draw is None), cases[0])
        drawn = draw(spec, case)
        for dtype in dtypes:
            every += _nonfinite(spec, case, drawn, dtype)
    return every


def _check_config(case: Case, config: Mapping[str, Any]) -> None:
    """Refuse settings that JSON cannot hold, since they travel to a worker as JSON."""
    for name, value in config.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"config must hold numbers, strings, booleans, None, and lists and dicts of them. "
                f"Received: {name}={value!r} in case {case.name}. Give a NumPy number as float(...) or int(...)."
            ) from error


def _case_tasks(spec: Spec, case: Case, drawn: Drawn, dtype: str, checks: Sequence[str], native: bool) -> list[Task]:
    job = base_job(spec, case, drawn, dtype)
    key = (case.name, dtype, "")
    tasks = []
    if set(checks) & {*BASE, "determinism", "power"}:
        gradients = bool(set(checks) & {"input_grad", "weight_grad", "determinism", "power"})
        base = replace(job, twice="determinism" in checks, gradients=gradients)
        tasks.append(Task("", Do.EVALUATE, case.name, base, key))
    if "compiled" in checks:
        tasks.append(Task("compiled", Do.EVALUATE, case.name, replace(job, compiled=True), key))
    if "taps" in checks and spec.taps:
        tapped = replace(job, taps=tuple(spec.taps))
        tasks.append(Task("taps", Do.EVALUATE, case.name, tapped, (case.name, dtype, "taps")))
    if "mixed" in checks and dtype != "float32":
        mixed = replace(base_job(spec, case, drawn, dtype, "float32"), param_dtype="float32")
        tasks.append(Task("mixed", Do.EVALUATE, case.name, mixed, (case.name, dtype, "mixed")))
    if "roundtrip" in checks and job.weights:
        tasks.append(Task("roundtrip", Do.ROUNDTRIP, case.name, job, None))
    trained = spec.training.cases if spec.training else None
    if "trajectory" in checks and job.weights and (trained is None or case.name in trained):
        training = training_job(spec, case, drawn, dtype, native)
        tasks.append(Task("trajectory", Do.TRAIN, case.name, training, (case.name, dtype, "trajectory")))
    return tasks


def _nonfinite(spec: Spec, case: Case, drawn: Drawn, dtype: str) -> list[Task]:
    """Set one element of the first float input to NaN, and to infinity."""
    job = base_job(spec, case, drawn, dtype)
    name = next((name for name, array in job.inputs.items() if is_float(array) and array.size), None)
    if name is None:
        return []
    spoilt_tasks = []
    for label, value in NONFINITE.items():
        array = job.inputs[name].copy()
        array.flat[array.size // 3] = value
        spoilt = replace(job, case=f"{case.name}+{label}", inputs={**job.inputs, name: array}, gradients=False)
        spoilt_tasks.append(Task("nonfinite", Do.EVALUATE, spoilt.case, spoilt, (spoilt.case, dtype, "")))
    return spoilt_tasks


def base_job(spec: Spec, case: Case, drawn: Drawn, dtype: str, param_dtype: str = "") -> Job:
    """Round a case's data to a dtype; float32 holds every value of the narrower ones exactly."""
    cotangents = dict(drawn.cotangents)
    rng = np.random.default_rng(list(f"{case.name}:cotangents".encode()))
    outputs, named_axes = spec.outputs_of(case), spec.axes(case)
    for name, axes in named_axes.items():
        sizes = [int(axis) if axis.isdigit() else drawn.config.get(axis) for axis in axes]
        known = [size for size in sizes if size is not None]
        if (
            name in outputs and name not in cotangents and len(known) == len(axes)
        ):  # others wait for the reference's run
            cotangents[name] = rng.normal(size=known)
    return Job(
        case.name,
        dtype,
        drawn.config,
        named_axes,
        tuple(outputs),
        weight_axes={name: drawn.axes[name] for name in (*drawn.weights, *drawn.state)},
        inputs=rounded(drawn.inputs, dtype),
        weights=rounded(drawn.weights, param_dtype or dtype),
        state=rounded(drawn.state, param_dtype or dtype),
        cotangents=rounded(cotangents, dtype),
    )


def rounded(arrays: Arrays, dtype: str) -> Arrays:
    return {
        name: quantise(array, dtype).astype(np.float32) if is_float(np.asarray(array)) else np.asarray(array)
        for name, array in arrays.items()
    }


def training_job(spec: Spec, case: Case, drawn: Drawn, dtype: str, native: bool = False) -> Job:
    """Return the job of the trajectory check, with the specification's batches or the case's inputs varied by step."""
    training = spec.training or Training()
    job = base_job(spec, case, drawn, dtype)
    rng: Rng = np.random.default_rng(list(f"{case.name}:batches".encode()))
    of_spec = dict(training.batches(rng, drawn.config, training.steps)) if training.batches else {}
    batches = {}
    for name, array in job.inputs.items():
        shape = (training.steps, *array.shape)
        if name in of_spec:
            batches[name] = of_spec[name]
        else:
            batches[name] = (
                array + case.scale * rng.normal(size=shape) if is_float(array) else np.broadcast_to(array, shape)
            )
        if batches[name].shape[0] != training.steps:
            raise SpecError(
                f"batches of {name!r} must have {training.steps} steps first. Received: {batches[name].shape}."
            )
    inputs = {name: array[0] for name, array in rounded(batches, dtype).items()}
    settings = {"steps": training.steps, "optimizer": training.optimizer, "rate": training.rate, "native": native}
    if training.loss is not None:
        cotangents = {name: np.full_like(array, name == training.loss) for name, array in job.cotangents.items()}
        job = replace(job, cotangents=cotangents)
    return replace(job, inputs=inputs, batches=rounded(batches, dtype), training=settings)
