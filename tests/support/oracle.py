"""ECA's reference values and error budgets for the tests of the layers, with channels first and canonical weights."""

from collections.abc import Iterable, Mapping
from importlib import import_module

import keras
import numpy as np

from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import labelled
from eca_multi.parity.engines import ENGINES
from eca_multi.parity.execute.tasks import base_job
from eca_multi.parity.specs import eca
from eca_multi.parity.specs._eca_cases import OPTIONS
from eca_multi.parity.specs._eca_oracle import solve

RESULTS = ("y", "dx", "dw")


def oracle(arrays: Mapping[str, np.ndarray], options: Mapping[str, str], dtype: str):
    """Return {"y": (reference, budget), "dx": ..., "dw": ...} for x, weight, cotangent and perhaps mask."""
    config = {"padding": "zeros", "gate": "sigmoid", **options}
    inputs = {name: arrays[name] for name in ("x", "mask") if name in arrays}
    given = {"inputs": inputs, "weights": {"w": arrays["weight"]}, "cotangents": {"y": arrays["cotangent"]}}
    return judged(Job("case", dtype, config, {}, ("y",), **given))


def judged(job: Job, names: Iterable[str] = RESULTS):
    solved = solve(job)
    return {name: (solved[name][0], SAFETY["analytic"] * solved[name][1]) for name in names}


def within(values, expected, allowed):
    """Return whether each number is within its budget, or is the same infinity or NaN as the reference."""
    with np.errstate(invalid="ignore"):
        same = (values == expected) | (np.isnan(values) & np.isnan(expected))
        return np.where(np.isfinite(expected), np.abs(values - expected) <= allowed, same)


def case_job(name: str, dtype: str = "float32") -> Job:
    """A case of the parity run."""
    case = eca.SPEC.case(name)
    return base_job(eca.SPEC, case, draw(eca.SPEC, case), dtype)


def run(kind: str, job: Job):
    """Run a job in this process by the engine of a framework; return its results by label."""
    module, _, engine = ENGINES[kind].partition(":")
    adapter = getattr(eca, kind.capitalize())()
    policy = keras.config.dtype_policy()
    try:
        return labelled(getattr(import_module(module), engine)(adapter).evaluate(job))
    finally:
        keras.config.set_dtype_policy(policy)  # a worker of Keras sets it to the job's, for its own process


AXES = {3: ("N", "C", "L"), 4: tuple("NCHW"), 5: ("N", "C", "D", "H", "W")}


def option_job(arrays: Mapping[str, np.ndarray], dtype: str = "float32", **options) -> Job:
    """A job of x, weight, cotangent and perhaps mask and residual, channels first, with a float32 weight."""
    config = {**OPTIONS, "C": arrays["x"].shape[1], "k": arrays["weight"].shape[-1], **options}
    axes = AXES[arrays["x"].ndim]
    inputs = {name: arrays[name] for name in ("x", "mask", "residual") if name in arrays}
    return Job(
        "case",
        dtype,
        config,
        {"x": axes, "y": axes, "residual": axes, "mask": (axes[0], *axes[2:])},
        ("y",),
        weight_axes={"w": ("k",) if config["shared"] else ("C", "k")},
        param_dtype="float32",
        inputs={name: array if array.dtype == bool else array.astype(np.float32) for name, array in inputs.items()},
        weights={"w": arrays["weight"].astype(np.float32)},
        cotangents={"y": arrays["cotangent"].astype(np.float32)},
    )


def wrong(outputs, job: Job, times: float = 1.0) -> set[str]:
    """The results, y and the gradients, of which some number is further off than so many times its budget."""
    names = ["y", *(f"d{name}" for name in (*job.inputs, "w") if name != "mask")]
    expected = judged(job, names)
    return {n for n in names if not within(outputs[n].values, expected[n][0], times * expected[n][1]).all()}
