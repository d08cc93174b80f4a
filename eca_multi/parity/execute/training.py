"""Training for the trajectory check, by the harness's own update rule or by a framework's own optimizer.

Teacher-forced: each step starts from the reference's weights and optimizer states, so that the harness judges the error
of one step, before errors grow. Free-running: a runner goes on from its own weights, and a report shows its drift
beside that of the reference's runs with noise.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from eca_multi.parity.define.dtypes import U_ACC, quantise, rounding
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.optimizers import OPTIMIZERS, Update
from eca_multi.parity.define.tensor import Kind, Outputs, Quantity, Solution, Tensor
from eca_multi.parity.engines.base import Unsupported

from .messages import Malformed

Arrays = dict[str, np.ndarray]
Gradients = Callable[[int, Arrays], Arrays]
PERTURBED = 8  # reference runs with noise: the band of the free drift
NUDGES = 16  # draws of signs of the gradients' errors, for each of which the update rule runs
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # steps whose drift a report shows
TRAINED = (Kind.STEP, Kind.FREE)  # what training returns for each weight
SOLVED = (Kind.START, Kind.STEP, Kind.FREE, Kind.BAND)  # what the reference's training returns for each weight


def marks(steps: int) -> list[int]:
    return sorted({step for step in MARKS if step < steps} | {steps})


def check_trained(job: Job, shapes: Mapping[Quantity, tuple[int, ...]], kinds: Iterable[Kind]) -> None:
    """Raise Malformed for tensors of training that lack a weight, or a step of one."""
    steps = (job.training or {})["steps"]
    for (name, weight), kind in product(job.weights.items(), kinds):
        first = steps if kind in (Kind.START, Kind.STEP) else len(marks(steps))
        for run in range(PERTURBED if kind is Kind.BAND else 1):
            quantity, expected = Quantity(kind, name, run=run), (first, *weight.shape)
            if (received := shapes.get(quantity)) != expected:
                raise Malformed(f"{quantity.label} must have the shape {expected}. Received: {received or 'none'}.")


def train(engine: Any, job: Job) -> tuple[Outputs, str]:
    """Return a runner's step from each start in `job.given`, the marks of a free run, and the optimizer's note.

    With `native` in the training's settings the framework's own optimizer updates float32 copies of the weights from
    the same gradients, as mixed precision does; the copies are rounded to the weights' dtype after each step.
    """
    settings = job.training or {}
    native = engine.optimizer(settings["optimizer"]) if settings.get("native") else None
    trainer = _Trainer(job, np.float32, native.update if native else OPTIMIZERS[settings["optimizer"]], job.parameters)
    work = replace(job, given={}, training=None)

    def gradients(step: int, weights: Arrays) -> Arrays:
        results = engine.evaluate(_step_job(work, step, weights))
        _check_gradients(results, weights)
        return {name: results[_gradient(name)].values.astype(np.float32) for name in weights}

    slots = [quantity for quantity in job.given if quantity.kind is Kind.SLOT]
    steps = []
    for step in range(settings["steps"]):
        weights = {name: job.given[Quantity(Kind.START, name)][step] for name in job.weights}
        states = {quantity.name: job.given[quantity][step] for quantity in slots}
        steps.append(trainer.update(weights, gradients(step, weights), states, step)[0])
    results = {**_stacked(Kind.STEP, steps), **_stacked(Kind.FREE, trainer.at_marks(gradients))}
    outputs = {q: Tensor(array.astype(np.float32), job.parameters) for q, array in results.items()}
    return outputs, native.note if native else ""


def solve_training(engine: Any, job: Job) -> Solution:
    """Return the reference's starts, a step from each with its error, its free run, and the runs with noise."""
    settings, u = job.training or {}, rounding(job.parameters).u
    work = replace(job, training=None)
    rule = OPTIMIZERS[settings["optimizer"]]
    trainer, noise = _Trainer(job, np.float64, rule), np.random.default_rng(0)
    kept: dict[Kind, list[Arrays]] = {kind: [] for kind in (Kind.START, Kind.SLOT, Kind.STEP)}
    errors: list[Arrays] = []
    weights: Arrays = {name: w.astype(np.float64) for name, w in job.weights.items()}
    slots: Arrays = {}
    for step in range(settings["steps"]):
        solved = engine.solve(_step_job(work, step, weights))
        _check_gradients(solved, weights)
        grads, off = ({n: np.asarray(solved[_gradient(n)][part], np.float64) for n in weights} for part in (0, 1))
        new, new_slots = trainer.update(weights, grads, slots, step)
        error = {n: u * np.abs(w) + rounding(job.parameters).tiny for n, w in new.items()}
        for _ in range(NUDGES):  # through the update rule, whatever its shape
            moved = {n: g + off[n] * noise.choice([-1.0, 1.0], g.shape) for n, g in grads.items()}
            other, _ = trainer.update(weights, moved, slots, step)
            error = {n: np.maximum(error[n], np.abs(other[n] - new[n]) + u * np.abs(new[n])) for n in new}
        # The rule's own roundings in float32, which outlast the result where the update all but cancels the weight.
        errors.append({n: e + 2 * U_ACC * np.abs(new[n] - weights[n]) for n, e in error.items()})
        kept[Kind.START].append(weights)
        kept[Kind.SLOT].append(slots or {n: np.zeros_like(s) for n, s in new_slots.items()})
        kept[Kind.STEP].append(new)
        weights = {n: quantise(w, job.parameters) for n, w in new.items()}
        slots = {n: s.astype(np.float32).astype(np.float64) for n, s in new_slots.items()}
    exact = {q: array for kind in (Kind.START, Kind.SLOT) for q, array in _stacked(kind, kept[kind]).items()}

    def reference_gradients(step: int, weights: Arrays, run: int | None = None) -> Arrays:
        of_step = replace(_step_job(work, step, weights), weights=weights)  # in float64
        seed = None if run is None else run * settings["steps"] + step
        solved = engine.exact(of_step) if seed is None else engine.perturbed(of_step, seed)
        return {n: solved[_gradient(n)] for n in weights}

    exact |= _stacked(Kind.FREE, trainer.at_marks(reference_gradients))
    for run in range(PERTURBED):
        noisy = replace(trainer, noise=(u, np.random.default_rng(run)))
        band = _stacked(Kind.BAND, noisy.at_marks(partial(reference_gradients, run=run)))
        exact |= {replace(quantity, run=run): array for quantity, array in band.items()}
    solution = {quantity: (array, np.zeros_like(array)) for quantity, array in exact.items()}
    of_steps = _stacked(Kind.STEP, errors)
    return {**solution, **{q: (array, of_steps[q]) for q, array in _stacked(Kind.STEP, kept[Kind.STEP]).items()}}


def _gradient(weight: str) -> Quantity:
    return Quantity(Kind.WEIGHT_GRADIENT, weight)


def _check_gradients(results: Collection[Quantity], weights: Iterable[str]) -> None:
    for name in weights:
        if _gradient(name) not in results:
            raise Unsupported(f"the adapter computes no gradient of {name}, without which nothing is trained")


def _step_job(job: Job, step: int, weights: Mapping[str, np.ndarray]) -> Job:
    """Return the evaluation of one step of training."""
    inputs = {name: array[step] for name, array in job.batches.items()}
    return replace(job, inputs=inputs, weights={n: w.astype(np.float32) for n, w in weights.items()}, batches={})


def _stacked(kind: Kind, points: list[Arrays]) -> dict[Quantity, np.ndarray]:
    """Stack arrays of several steps along a first axis."""
    return {Quantity(kind, name): np.stack([point[name] for point in points]) for name in points[0]}


@dataclass(frozen=True)
class _Trainer:
    """An update rule in a dtype. After each update it rounds the weights to the dtype `round_to`, if there is one.

    `noise` is u and a generator: after each update each weight moves by u times its size.
    """

    job: Job
    dtype: Any
    rule: Update
    round_to: str = ""
    noise: tuple[float, np.random.Generator] | None = None

    def update(self, weights: Arrays, grads: Arrays, slots: Arrays, step: int) -> tuple[Arrays, Arrays]:
        """Return the weights and optimizer states after one step."""
        rate = (self.job.training or {})["rate"]
        w, g, s = ({n: np.asarray(a, self.dtype) for n, a in arrays.items()} for arrays in (weights, grads, slots))
        new, new_slots = self.rule(w, g, s, step + 1, self.dtype(rate))
        if self.round_to:
            new = {n: quantise(w, self.round_to).astype(self.dtype) for n, w in new.items()}
        return new, new_slots

    def at_marks(self, gradients: Gradients) -> list[Arrays]:
        """Train from the job's weights; return the weights at the marks."""
        steps = (self.job.training or {})["steps"]
        kept: list[Arrays] = []
        weights: Arrays = {name: w.astype(self.dtype) for name, w in self.job.weights.items()}
        slots: Arrays = {}
        for step in range(steps):
            weights, slots = self.update(weights, gradients(step, weights), slots, step)
            if self.noise:
                u, rng = self.noise
                weights = {n: w + u * np.abs(w) * rng.choice([-1.0, 1.0], w.shape) for n, w in weights.items()}
            if step + 1 in marks(steps):
                kept.append(weights)
        return kept
