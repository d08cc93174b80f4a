"""The trajectory check: training with the harness's own update rule, or with a framework's own optimizer.

Teacher-forced: every step starts from the reference's weights and optimizer state, so that one step's error is judged
and not what it grew to; that decides. Free-running: each runner goes on from its own weights, and how far it drifts is
plotted beside the band of perturbed reference runs.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from eca_multi.parity.define.dtypes import U_ACC, quantise, rounding
from eca_multi.parity.define.job import Job, Outputs, Tensor
from eca_multi.parity.define.optimizers import OPTIMIZERS, Update
from eca_multi.parity.engines.base import Unsupported

Arrays = dict[str, np.ndarray]
Gradients = Callable[[int, Arrays], Arrays]
PERTURBED = 8  # reference runs with noise: the band of the free drift
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps at which the drift is kept


def marks(steps: int) -> list[int]:
    return sorted({step for step in MARKS if step < steps} | {steps})


def step_job(job: Job, step: int, weights: Arrays) -> Job:
    inputs = {name: array[step] for name, array in job.batches.items()}
    return replace(job, inputs=inputs, weights={n: w.astype(np.float32) for n, w in weights.items()}, batches={})


def runner_run(engine: Any, job: Job) -> Outputs:
    """One step from each of the reference's points, then a run of one's own; `job.given` holds the points.

    With `native` in the training's settings the framework's own optimizer updates, from the same gradients, float32
    copies of the weights, as mixed precision does; they are rounded to the weights' dtype as with the own rule.
    """
    settings = job.training or {}
    steps, kind = settings["steps"], settings["optimizer"]
    rule = engine.optimizer(kind).update if settings.get("native") else OPTIMIZERS[kind]
    work = replace(job, given={}, training=None)

    def gradients(step: int, weights: Arrays) -> Arrays:
        found = engine.evaluate(step_job(work, step, weights))
        _check_trained(found, weights)
        return {name: found[f"d{name}"].values.astype(np.float32) for name in weights}

    one_step: dict[str, list[np.ndarray]] = {name: [] for name in job.weights}
    for step in range(steps):
        weights = {name: job.given[f"w.{name}"][step] for name in job.weights}
        slots = {k[2:]: array[step] for k, array in job.given.items() if k.startswith("s.")}
        new, _ = _update(job, weights, gradients(step, weights), slots, step, np.float32, rule=rule)
        for name, array in new.items():
            one_step[name].append(array)
    free: dict[str, list[np.ndarray]] = {name: [] for name in job.weights}
    for step, weights in _free(job, gradients, np.float32, rule=rule):
        if step in marks(steps):
            for name, array in weights.items():
                free[name].append(array)
    results = {f"step.{name}": np.stack(arrays) for name, arrays in one_step.items()}
    results |= {f"free.{name}": np.stack(arrays) for name, arrays in free.items()}
    return {name: Tensor(array.astype(np.float32), job.parameters) for name, array in results.items()}


def _check_trained(found: Collection[str], weights: Arrays) -> None:
    for name in weights:
        if f"d{name}" not in found:
            raise Unsupported(f"the adapter computes no gradient of {name}, without which nothing is trained")


def reference_run(engine: Any, job: Job) -> Outputs:
    """The points, one step from each with its error, the free float64 run, and the runs with noise."""
    steps, u = (job.training or {})["steps"], rounding(job.parameters).u
    work = replace(job, training=None)

    def solved(step: int, weights: Arrays) -> tuple[Arrays, Arrays]:
        found = engine.solve(step_job(work, step, weights))
        _check_trained(found, weights)
        return tuple({n: found[f"d{n}"][i] for n in weights} for i in (0, 1))  # type: ignore[return-value]

    kept: dict[str, list[np.ndarray]] = {}
    weights: Arrays = {name: w.astype(np.float64) for name, w in job.weights.items()}
    slots: Arrays = {}
    rng = np.random.default_rng(0)
    for step in range(steps):
        grads, errors = solved(step, weights)
        new, new_slots = _update(job, weights, grads, slots, step, np.float64, round_to=None)
        error = {name: u * np.abs(w) + rounding(job.parameters).tiny for name, w in new.items()}
        for _ in range(16):  # through the update rule, whatever its shape
            moved = {n: g + errors[n] * rng.choice([-1.0, 1.0], g.shape) for n, g in grads.items()}
            other, _ = _update(job, weights, moved, slots, step, np.float64, round_to=None)
            error = {n: np.maximum(error[n], np.abs(other[n] - new[n]) + u * np.abs(new[n])) for n in new}
        # The rule's own roundings in float32, which outlast the result where the update all but cancels the weight.
        error = {n: e + 2 * U_ACC * np.abs(new[n] - weights[n]) for n, e in error.items()}
        point = {f"w.{n}": w for n, w in weights.items()} | {f"s.{n}": s for n, s in slots.items()}
        if not slots:
            zeros = {n: np.zeros_like(s) for n, s in new_slots.items()}
            point |= {f"s.{n}": s for n, s in zeros.items()}
        point |= {f"step.{n}": w for n, w in new.items()} | {f"step.{n}@error": e for n, e in error.items()}
        for name, array in point.items():
            kept.setdefault(name, []).append(array)
        weights = {n: quantise(w, job.parameters) for n, w in new.items()}
        slots = {n: s.astype(np.float32).astype(np.float64) for n, s in new_slots.items()}
    results = {name: np.stack(arrays) for name, arrays in kept.items()}

    for seed in range(-1, PERTURBED):  # -1 is the run without noise

        def gradients(step: int, weights: Arrays, seed: int = seed) -> Arrays:
            here = replace(step_job(work, step, weights), weights=weights)
            found = engine.exact(here) if seed < 0 else engine.perturbed(here, seed * steps + step)
            return {n: found[f"d{n}"] for n in weights}

        for step, weights in _free(job, gradients, np.float64, None if seed < 0 else (u, np.random.default_rng(seed))):
            if step in marks(steps):
                for name, array in weights.items():
                    kept.setdefault(f"{seed}.{name}", []).append(array)
    for name in job.weights:
        results[f"free.{name}"] = np.stack(kept[f"-1.{name}"])
        for seed in range(PERTURBED):
            results[f"band{seed}.{name}"] = np.stack(kept[f"{seed}.{name}"])
    return {name: Tensor(array, "float64") for name, array in results.items()}


def _free(
    job: Job,
    gradients: Gradients,
    dtype: Any,
    noise: tuple[float, np.random.Generator] | None = None,
    rule: Update | None = None,
) -> Iterator[tuple[int, Arrays]]:
    """Train from the job's weights; yield the number of updates made and the weights."""
    weights: Arrays = {name: w.astype(dtype) for name, w in job.weights.items()}
    slots: Arrays = {}
    for step in range((job.training or {})["steps"]):
        round_to = job.parameters if dtype == np.float32 else None
        weights, slots = _update(job, weights, gradients(step, weights), slots, step, dtype, round_to, rule)
        if noise:
            u, rng = noise
            weights = {n: w + u * np.abs(w) * rng.choice([-1.0, 1.0], w.shape) for n, w in weights.items()}
        yield step + 1, weights


def _update(
    job: Job,
    weights: Arrays,
    grads: Arrays,
    slots: Arrays,
    step: int,
    dtype: Any,
    round_to: str | None = "",
    rule: Update | None = None,
) -> tuple[Arrays, Arrays]:
    settings = job.training or {}
    w, g, s = ({n: np.asarray(a, dtype) for n, a in arrays.items()} for arrays in (weights, grads, slots))
    new, new_slots = (rule or OPTIMIZERS[settings["optimizer"]])(w, g, s, step + 1, dtype(settings["rate"]))
    if round_to is not None:
        new = {n: quantise(w, round_to or job.parameters).astype(dtype) for n, w in new.items()}
    return new, new_slots
