"""Shrinking: axis after axis, the smallest size of a failing case at which the same tensor still fails."""

from dataclasses import replace
from typing import Any

import numpy as np

from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.judge.verdicts import Judge

from .localize import FAILS, judge_stage
from .rerun import Bench, Rerun


def shrink(bench: Bench, judge: Judge, job: Job, label: str) -> Job:
    """Return a job cut to the smallest sizes at which the tensor with a label fails; the job itself if none is."""
    smallest = replace(job, taps=())
    for axis in axes_of(job):
        for size in candidates(smallest, axis):  # one by one: each size is a program to compile, and the first may do
            [rerun] = bench.run([cut(smallest, axis, size)])
            if isinstance(rerun, Rerun) and _fails(rerun, judge, label):
                smallest = rerun.job
                break
    return replace(smallest, taps=job.taps) if smallest.config != job.config else job


def _fails(rerun: Rerun, judge: Judge, label: str) -> bool:
    """Return whether a tensor fails; the first output stands for one that the reference does not have."""
    first = Quantity(Kind.OUTPUT, rerun.job.outputs[0])
    quantity = next((quantity for quantity in rerun.solution if quantity.label == label), first)
    if quantity not in rerun.results or quantity not in rerun.solution:
        return False
    return judge_stage(quantity, rerun.results, rerun.solution, judge).verdict in FAILS


def cut(job: Job, axis: str, size: int) -> Job:
    """Cut every tensor of a job to the first `size` along an axis: data, weights and states."""
    axes = {**job.axes, **job.weight_axes}

    def part(name: str, array: np.ndarray) -> np.ndarray:
        index = [slice(size) if other == axis else slice(None) for other in axes.get(name, ())]
        return array[(*index, ...)]

    parts: dict[str, Any] = {
        group: {name: part(name, array) for name, array in getattr(job, group).items()}
        for group in ("inputs", "weights", "state", "cotangents")
    }
    return replace(job, config={**job.config, axis: size}, **parts)


def candidates(job: Job, axis: str) -> list[int]:
    now = int(job.config[axis])
    return [size for size in sorted({1, 2, 3, 4, 8, now // 2}) if 0 < size < now]


def axes_of(job: Job) -> list[str]:
    """Return the axes of the inputs in the order in which they are cut: the batch first, the channels last."""
    names = dict.fromkeys(axis for name in job.inputs for axis in job.axes.get(name, ()) if not axis.isdigit())
    return sorted((axis for axis in names if axis in job.config), key=lambda axis: (axis == "C", axis != "N"))
