"""Means near the largest float32, and numbers below the smallest normal one: all frameworks alike, or as measured."""

from functools import cache
from importlib import import_module

import keras
import numpy as np
import pytest
import torch

from eca_multi.parity.define.dtypes import DTYPES, rounding
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.explain.fingerprints.elements import subnormals
from eca_multi.parity.judge.compare import Verdict, judge
from tests.support.oracle import judged, within
from tests.support.oracle import run as run_job

LARGEST = float(np.finfo(np.float32).max)
POSITIONS = (4, 5)


def near_overflow(factor, taps=(0.5, -1.0, 0.25)):
    """One channel's sum is `factor` times the largest float32, and its mean is finite."""
    rng = np.random.default_rng(3)
    shape = (2, 8, *POSITIONS)
    x = rng.normal(size=shape)
    x[0, 3] = factor * LARGEST / np.prod(POSITIONS)
    arrays = {"x": x.astype(np.float32)}, {"w": np.array(taps, np.float32)}, {"y": np.ones(shape, np.float32)}
    config = {"C": 8, "k": 3, "padding": "zeros", "gate": "sigmoid", "shared": True, "channels": "usual"}
    return Job(
        "near-overflow", "float32", config, {"x": tuple("NCHW"), "y": tuple("NCHW")}, ("y",),
        weight_axes={"w": ("k",)}, inputs=arrays[0], weights=arrays[1], cotangents=arrays[2],
    )  # fmt: skip


def test_a_sum_below_the_largest_number_is_right(framework):
    job = near_overflow(0.9)
    outputs, expected = run_job(framework.kind, job), judged(job)
    for key, (values, allowed) in expected.items():
        assert within(outputs[key].values, values, allowed).all(), key


def test_where_a_sum_overflows_all_frameworks_are_alike(framework):
    """The mean is infinite, its gates are at their ends, and dw has no value. No other sample takes part."""
    job = near_overflow(1.1)
    outputs, expected = run_job(framework.kind, job), judged(job)
    values, allowed = expected["y"]
    assert within(outputs["y"].values, values, allowed).all()  # a sigmoid at its end is right for any such mean
    assert (outputs["y"].values[0, 3] == 0).all()
    assert (outputs["y"].values[0, [2, 4]] == job.inputs["x"][0, [2, 4]]).all()
    assert not np.isfinite(outputs["dw"].values).any()
    assert np.isfinite(expected["dw"][0]).all()
    assert within(outputs["dx"].values[1], *(part[1] for part in expected["dx"])).all()
    verdict = judge(Tensor(outputs["dw"].values, "float32"), *expected["dw"], "float32").verdict
    assert verdict is Verdict.NONFINITE_MISMATCH  # what the harness says of it


def test_where_a_sum_overflows_a_tap_of_zero_gives_nan(framework):
    y = run_job(framework.kind, near_overflow(1.1, (0.5, 0.0, 0.25)))["y"].values
    nan = np.zeros(y.shape, bool)
    nan[0, 3] = True
    np.testing.assert_array_equal(np.isnan(y), nan)


# --- subnormal numbers -----------------------------------------------------------------------------------------------


@cache
def fingerprint(name, dtype):
    """What the fingerprint says of subnormal numbers, without the rest of its measurements."""
    return subnormals(import_module(f"eca_multi.parity.explain.fingerprints.{name}").Framework(), dtype)


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_subnormal_y_is_what_the_fingerprint_says(framework, dtype):
    """Kept or flushed to 0: which one is this machine's, and is measured on other operations than ECA's."""
    fact = fingerprint(keras.backend.backend() if framework.kind == "keras" else framework.kind, dtype)
    assert fact in ("kept", "mixed", "flushed")
    tiny = rounding(dtype).tiny
    w = np.zeros(3, np.float32)  # each gate is 1/2
    for value in (tiny, tiny / 2):
        x = np.full((2, 6, 5, 4), value, DTYPES[dtype])
        x = torch.from_numpy(x.astype(np.float64)).to(getattr(torch, dtype)) if framework.kind == "torch" else x
        y = framework.numpy(framework.package.eca(x, framework.tensor(w), channel_axis=1))
        allowed = {"kept": {value / 2}, "flushed": {0.0}, "mixed": {0.0, value / 2}}[fact]
        assert set(y.ravel()) <= allowed
