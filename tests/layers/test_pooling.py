"""Which positions a gate sees: `pool_axes` and `causal_axis` in every framework, judged by the float64 oracle.

Arrays and axes are those of channels first; a framework gets them in its own layout, or in the other one.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

from eca_multi import reference
from eca_multi.parity.define.dtypes import quantise
from tests.layers.test_layers import build, draw
from tests.support.oracle import judged, option_job, run, wrong

VIDEO, SEQUENCE = (2, 7, 3, 5, 4), (2, 7, 37)
CASES = {
    "frames": (VIDEO, {"pool_axes": [3, 4]}),
    "one-axis": (VIDEO, {"pool_axes": [3], "gate": "hard_sigmoid", "shared": False}),
    "causal": (VIDEO, {"causal_axis": 2, "padding": "circular"}),
    "causal-last": (VIDEO, {"causal_axis": 4, "gate": "2sigmoid"}),
    "causal-in-frames": (VIDEO, {"pool_axes": [2, 4], "causal_axis": 4, "padding": "circular", "shared": False}),
    "sequence": (SEQUENCE, {"causal_axis": 2, "gate": "hard_sigmoid"}),
    "one-step": ((2, 7, 1), {"causal_axis": 2}),
}
functions = pytest.mark.only("torch", "keras", "jax")  # linen and nnx call eca_multi.jax.eca


def case_job(rng, case, masked=False, dtype="float32", **config):
    shape, options = CASES[case]
    arrays = draw(rng, shape, 3, options.get("shared", True), "full" if masked else "none", dtype)
    if masked:
        arrays["mask"][0, :2] = False  # no position counts so far
    return option_job(arrays, dtype, **options, **config)


# --- the formula -------------------------------------------------------------------------------------------------


@functions
@pytest.mark.parametrize("channels", ["usual", pytest.param("other", marks=pytest.mark.slow)])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(framework, rng, case, masked, channels):
    job = case_job(rng, case, masked, channels=channels)
    assert wrong(run(framework.kind, job), job) == set()


@pytest.mark.only("linen", "nnx")
@pytest.mark.parametrize("channels", ["usual", "other"])
def test_layers_hand_the_axes_on(framework, rng, channels):
    job = case_job(rng, "causal-in-frames", masked=True, channels=channels)
    assert wrong(run(framework.kind, job), job) == set()


@functions
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", ["frames", "causal-last", "sequence"])
def test_half_precision(framework, rng, case, dtype):
    job = case_job(rng, case, masked=case == "sequence", dtype=dtype)
    outputs = run(framework.kind, job)
    assert (outputs["y"].dtype, outputs["dx"].dtype) == (dtype, dtype)
    assert wrong(outputs, job) == set()


@functions
@pytest.mark.parametrize("case", ["frames", "causal-last"])
def test_float64_stays_float64(framework, rng, case):
    if framework.name == "keras-jax":
        pytest.skip("Keras fixes the precision of its JAX backend at import")
    shape, options = CASES[case]
    arrays = draw(rng, shape)
    x, w = rng.normal(size=shape) + arrays["x"], arrays["weight"] + rng.uniform(0, 2**-24)
    expected = reference.forward(x, w, **options)
    shapes = {"torch": (1, 1, 3)}
    with jax.enable_x64(True):
        kernel = framework.tensor(w.reshape(shapes.get(framework.kind, (3, 1, 1))), "float64")
        x_there = framework.tensor(x, "float64")
        y, gate = framework.package.eca(x_there, kernel, channel_axis=1, return_gate=True, **options)
        assert (framework.dtype_of(y), framework.dtype_of(gate)) == ("float64", "float64")
        # Sums of at most 60 numbers below 10: a hundred units of that, and float32 would be a million times further.
        np.testing.assert_allclose(framework.numpy(y), expected.y, rtol=0, atol=1e-13)
        np.testing.assert_allclose(framework.numpy(gate), expected.gate, rtol=0, atol=1e-13)


@functions
@pytest.mark.parametrize("case", CASES)
def test_the_gate_has_the_kept_axes_in_the_order_of_x(framework, rng, case):
    shape, options = CASES[case]
    arrays = draw(rng, shape, shared=options.get("shared", True), mask="full")
    expected = reference.forward(arrays["x"], arrays["weight"], mask=arrays["mask"], **without(options, "shared"))
    kernel = np.atleast_2d(arrays["weight"])
    kernel = kernel[:, None] if framework.kind == "torch" else kernel.T[:, None]
    tensors = [framework.tensor(a, "float32") for a in (arrays["x"], kernel)]
    mask, call = framework.tensor(arrays["mask"]), without(options, "shared")
    _, gate = framework.package.eca(*tensors, channel_axis=1, mask=mask, return_gate=True, **call)
    assert tuple(gate.shape) == expected.gate.shape
    np.testing.assert_allclose(framework.numpy(gate), expected.gate, rtol=0, atol=1e-5)


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


@pytest.mark.only("torch", "linen", "nnx", "jax")
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_channels_may_lie_anywhere(framework, rng, axis):
    """Axes are counted in x as it comes: with the channels at `axis`, the axes of the video move before them."""
    arrays = draw(rng, VIDEO)
    order = [0, 2, 3, 4]
    order.insert(axis, 1)
    frames, time = tuple(order.index(i) for i in (3, 4)), order.index(2)
    for mine, theirs in (
        ({"pool_axes": [3, 4]}, {"pool_axes": frames}),
        ({"pool_axes": [2, 4], "causal_axis": 2}, {"pool_axes": (order.index(4) - 5, time), "causal_axis": time - 5}),
    ):
        layer = build(framework, arrays["weight"], VIDEO[1], axis, rank=5, **theirs)
        y = framework.numpy(layer(framework.tensor(arrays["x"].transpose(order), "float32")))
        expected = reference.forward(arrays["x"], arrays["weight"], **mine).y.transpose(order)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@functions
def test_axes_count_from_the_end_too_and_one_may_stand_alone(framework, rng):
    arrays = draw(rng, VIDEO)
    results = []
    for options in ({"pool_axes": (3, 4)}, {"pool_axes": [-1, 3]}, {"pool_axes": 4}, {"pool_axes": (4,)}):
        built = build(framework, arrays["weight"], VIDEO[1], 1, rank=5, **options)
        results.append(framework.numpy(built(framework.tensor(arrays["x"], "float32"))))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[2], results[3])
    assert np.abs(results[0] - results[2]).max() > 1e-2


@functions
@pytest.mark.parametrize("case", ["frames", "causal"])
def test_an_empty_batch_and_an_empty_kept_axis(framework, rng, case):
    options = CASES[case][1]
    for shape in ((0, 7, 3, 5, 4), (2, 7, 0, 5, 4)) if case == "frames" else ((0, 7, 3, 5, 4),):
        built = framework.build(7, 3, channel_axis=1, rank=5, **options)
        assert tuple(built(framework.tensor(np.ones(shape, np.float32))).shape) == shape


# --- what the comparison sees --------------------------------------------------------------------------------------

OTHERS = {
    "all-positions": ("causal", {"causal_axis": None}),
    "another-causal-axis": ("causal", {"causal_axis": 3}),
    "all-axes": ("frames", {"pool_axes": None}),
    "the-other-axes": ("frames", {"pool_axes": [2, 3]}),
    "a-sum-over-frames": ("causal-in-frames", {"pool_axes": [2, 3, 4]}),
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", OTHERS)
def test_the_comparison_rejects(framework, rng, name):
    """The control: the axes of another call are far outside the budget, in y and in both gradients."""
    case, changed = OTHERS[name]
    job = case_job(rng, case)
    outputs = run(framework.kind, replace(job, config={**job.config, **changed}))
    assert wrong(outputs, job, times=100) == {"y", "dx", "dw"}


def ahead(shape, axis, start):
    """Where a position of `axis` is `start` or later."""
    steps = np.arange(shape[axis]) >= start
    return np.broadcast_to(steps.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


@functions
@pytest.mark.parametrize("case", ["causal", "causal-last", "sequence"])
def test_nothing_comes_from_the_future(framework, rng, case):
    """Not one bit; and not NaN or infinity, which a product with 0 would let through."""
    shape, options = CASES[case]
    axis = options["causal_axis"]
    arrays = draw(rng, shape)
    later = ahead(shape, axis, shape[axis] // 2)
    built = build(framework, arrays["weight"], shape[1], 1, rank=len(shape), causal_axis=axis)
    before = framework.numpy(built(framework.tensor(arrays["x"], "float32")))
    for value in (7.0, np.nan, np.inf):
        after = framework.numpy(built(framework.tensor(np.where(later, value, arrays["x"]), "float32")))
        np.testing.assert_array_equal(after[~later], before[~later])
    plain = build(framework, arrays["weight"], shape[1], 1)
    ends = [
        framework.numpy(plain(framework.tensor(a, "float32"))) for a in (arrays["x"], np.where(later, 7, arrays["x"]))
    ]
    assert np.abs(ends[0] - ends[1])[~later].max() > 1e-2  # the control: the plain mean sees it


@functions
def test_frames_of_their_own_do_not_see_each_other(framework, rng):
    arrays = draw(rng, VIDEO)
    built = build(framework, arrays["weight"], VIDEO[1], 1, rank=5, pool_axes=(3, 4))
    other = np.where(np.arange(3)[:, None, None] == 1, np.nan, arrays["x"])
    before, after = (framework.numpy(built(framework.tensor(x, "float32"))) for x in (arrays["x"], other))
    np.testing.assert_array_equal(after[:, :, ::2], before[:, :, ::2])
    assert np.isnan(after[:, :, 1]).all()


# --- masks ---------------------------------------------------------------------------------------------------------


@functions
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", ["causal", "frames", "sequence"])
def test_bad_padding_reaches_neither_means_nor_gradients(framework, rng, case, value):
    shape, options = CASES[case]
    arrays = draw(rng, shape, mask="full")
    arrays["mask"][0, :2] = False
    valid = arrays["mask"][:, None]
    arrays["x"] = np.where(valid, arrays["x"], value)
    arrays["cotangent"] = np.where(valid, arrays["cotangent"], 0)
    job = option_job(arrays, **options)
    outputs = run(framework.kind, job)
    assert wrong(outputs, job) == set()
    assert np.isfinite(outputs["dw"].values).all()
    assert np.isfinite(outputs["dx"].values).all()


@functions
def test_masks_of_lower_rank_and_one_sample_broadcast(framework, rng):
    shape, options = CASES["causal-in-frames"]
    for extents in ((1, 3, 5, 4), (3, 1, 4), (4,)):  # in Keras a mask of two axes is (N, T)
        arrays = draw(rng, shape, shared=False)
        mask = arrays["mask"] = rng.random(extents) < 0.6
        built = build(framework, arrays["weight"], 7, 1, rank=5, **without(options, "shared"))
        y = framework.numpy(built(framework.tensor(arrays["x"], "float32"), framework.tensor(mask)))
        expected = reference.forward(arrays["x"], arrays["weight"], mask=mask, **without(options, "shared")).y
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


# --- long sequences ------------------------------------------------------------------------------------------------


def long_job(rng, steps, dtype="float32"):
    """Equal steps of 0.1 in one channel: a large sum rounds each of them in the same direction."""
    arrays = draw(rng, (1, 2, steps), dtype=dtype)
    arrays["x"] = quantise(np.stack([np.full(steps, 0.1), rng.uniform(0.9, 1.1, steps)])[None], dtype)
    arrays["weight"] = np.array([0.5, 1.0, -0.25])
    return option_job(arrays, dtype, causal_axis=2)


@functions
@pytest.mark.slow_on("jax", "torch")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_million_steps_stay_within_budget(framework, rng, dtype):
    job = long_job(rng, 1_000_000, dtype)
    assert wrong(run(framework.kind, job), job) == set()


def test_a_sum_in_order_would_be_seen(rng):
    """The control: float32 one after the other drifts out of the budget of the means."""
    job = replace(long_job(rng, 1_000_000), taps=("pooled",))
    mean, allowed = judged(job, ["pooled"])["pooled"]
    x = job.inputs["x"]
    in_order = np.cumsum(x, -1, dtype=np.float32) / np.arange(1, x.shape[-1] + 1, dtype=np.float32)
    assert (np.abs(in_order - mean) > 10 * allowed).any()
    assert (np.abs(np.cumsum(x, -1, dtype=np.float64) / np.arange(1, x.shape[-1] + 1) - mean) <= allowed).all()
