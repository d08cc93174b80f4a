"""`residual`, the end of a residual block in one pass, in every framework: judged by the float64 oracle."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from eca_multi import reference
from tests.layers.test_layers import build, draw, mixed
from tests.support.oracle import option_job, run, wrong

SHAPE = (2, 7, 5, 4)
CASES = {
    "plain": {},
    "per-channel": {"padding": "circular", "gate": "hard_sigmoid", "shared": False},
    "frames": {"pool_axes": [3], "gate": "2sigmoid"},
    "causal": {"causal_axis": 2},
}
functions = pytest.mark.only("torch", "keras", "jax")  # linen and nnx call eca_multi.jax.eca


def case_job(rng, case="plain", *, masked=False, dtype="float32", shape=SHAPE, **config):
    options = CASES[case]
    arrays = draw(rng, shape, 3, options.get("shared", True), "all-masked-sample" if masked else "none", dtype)
    arrays["residual"] = draw(rng, shape, dtype=dtype)["x"]
    return option_job(arrays, dtype, **options, **config)


@functions
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(framework, rng, case, masked):
    job = case_job(rng, case, masked=masked)
    outputs = run(framework.kind, job)
    assert wrong(outputs, job) == set()
    np.testing.assert_array_equal(outputs["dresidual"].values, job.cotangents["y"])


@pytest.mark.parametrize("channels", ["usual", "other"])
def test_channels_at_either_place_and_layers(framework, rng, channels):
    job = case_job(rng, channels=channels)
    assert wrong(run(framework.kind, job), job) == set()


@functions
@pytest.mark.parametrize("shape", [(1, 7, 5, 4), (2, 20, 31, 29)], ids=["one-sample", "large-map"])
def test_sizes_with_a_path_of_their_own(framework, rng, shape):
    job = case_job(rng, shape=shape)
    assert wrong(run(framework.kind, job), job) == set()


@functions
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(framework, rng, dtype, masked):
    job = case_job(rng, dtype=dtype, masked=masked)
    outputs = run(framework.kind, job)
    assert {outputs[name].dtype for name in ("y", "dx", "dresidual")} == {dtype}
    assert wrong(outputs, job) == set()
    np.testing.assert_array_equal(outputs["dresidual"].values, job.cotangents["y"])


@functions
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [SHAPE, (2, 20, 31, 29)], ids=["small", "large"])
def test_half_precision_is_rounded_once(framework, rng, dtype, masked, shape):
    """Where the residual is minus the rounded product, what is left is the product's rounding, and not 0."""
    arrays = draw(rng, shape, mask="full" if masked else "none", dtype=dtype)
    mask = framework.tensor(arrays["mask"]) if masked else None
    layer = build(framework, arrays["weight"], shape[1], 1, **mixed(framework, dtype))
    x = framework.tensor(arrays["x"], dtype)
    product = framework.numpy(layer(x, mask))
    y = layer(x, mask, framework.tensor(-product, dtype))
    assert framework.dtype_of(y) == dtype
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    left = np.abs(framework.numpy(y))
    assert (left <= 1.01 * unit * np.abs(product) + 2.0**-24).all()
    assert (left > 0).mean() > 0.9


@functions
def test_float64_stays_float64(framework, rng):
    if framework.name == "keras-jax":
        pytest.skip("Keras fixes the precision of its JAX backend at import")
    x, residual, w = rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.normal(size=3)
    with jax.enable_x64(True):
        kernel = framework.tensor(w.reshape((1, 1, 3) if framework.kind == "torch" else (3, 1, 1)), "float64")
        tensors = [framework.tensor(a, "float64") for a in (x, residual)]
        y = framework.package.eca(tensors[0], kernel, channel_axis=1, residual=tensors[1])
        assert framework.dtype_of(y) == "float64"
        # Sums of 20 numbers of size 1.
        np.testing.assert_allclose(framework.numpy(y), reference.forward(x, w, residual=residual).y, rtol=0, atol=1e-14)


@functions
def test_the_gate_beside_it_and_the_arguments_stay_what_they_are(framework, rng):
    arrays = draw(rng, SHAPE)
    residual = rng.normal(size=SHAPE).astype(np.float32)
    kernel = arrays["weight"].reshape((1, 1, 3) if framework.kind == "torch" else (3, 1, 1))
    x, kernel, shortcut = (framework.tensor(a, "float32") for a in (arrays["x"], kernel, residual))
    y, gate = framework.package.eca(x, kernel, channel_axis=1, residual=shortcut, return_gate=True)
    plain, alone = framework.package.eca(x, kernel, channel_axis=1, return_gate=True)
    np.testing.assert_array_equal(framework.numpy(gate), framework.numpy(alone))
    np.testing.assert_allclose(framework.numpy(y), framework.numpy(plain) + residual, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(framework.numpy(x), arrays["x"])
    np.testing.assert_array_equal(framework.numpy(shortcut), residual)


@functions
def test_an_empty_batch(framework, rng):
    empty = framework.tensor(np.ones((0, *SHAPE[1:]), np.float32))
    assert tuple(framework.build(7, 3, channel_axis=1)(empty, residual=empty).shape) == (0, *SHAPE[1:])


@pytest.mark.only("torch")
@pytest.mark.parametrize("factor", [0.0, 2.0], ids=["left-out", "added-twice"])
def test_the_comparison_rejects(framework, rng, factor):
    job = case_job(rng)
    inputs = {**job.inputs, "residual": np.float32(factor) * job.inputs["residual"]}
    outputs = run(framework.kind, replace(job, inputs=inputs))
    assert wrong(outputs, job, times=100) == {"y"}
