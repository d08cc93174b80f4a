"""One contract for the layer and the function of every framework, judged by the float64 oracle.

The bound is a running error analysis of the case's own data, so no tolerance is chosen here.
Arrays are drawn channels first and moved to each framework's layout.
"""

import math
from importlib import import_module

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch

from eca_multi import eca_kernel_size, reference
from eca_multi.parity.define import dtypes as budget
from tests.support.oracle import case_job, judged, oracle
from tests.support.oracle import run as run_job

SHAPE = (2, 11, 5, 7)
SHAPES = {3: (2, 11, 7), 4: SHAPE, 5: (2, 11, 3, 4, 5)}
MASKS = ("none", "full", "all-masked-sample", "broadcast-batch", "lower-rank")
OPTIONS = [
    {"padding": padding, "gate": gate, "shared": shared}
    for padding in ("zeros", "circular")
    for gate in ("sigmoid", "hard_sigmoid", "2sigmoid")
    for shared in (True, False)
]
# Each rank with each mask, which take the options in turn.
LAYOUTS = [
    (rank, mask, OPTIONS[5 * i % len(OPTIONS)])
    for i, (rank, mask) in enumerate((rank, mask) for rank in SHAPES for mask in MASKS)
]


def draw(rng, shape=SHAPE, k=3, shared=True, mask="none", dtype="float32", scale=1.0):
    """x and a cotangent of `dtype`, an asymmetric weight in float32, and a mask where one is asked for."""
    batch, channels, *spatial = shape
    offsets = rng.uniform(-2, 2, (1, channels) + (1,) * len(spatial))
    arrays = {
        "x": budget.quantise(scale * (rng.normal(size=shape) + offsets), dtype),
        "cotangent": budget.quantise(rng.normal(size=shape), dtype),
        "weight": budget.quantise(rng.normal(size=k if shared else (channels, k)) / scale, "float32"),
    }
    shapes = {"broadcast-batch": (1, *spatial), "lower-rank": tuple(spatial[-1:])}
    if mask != "none":
        arrays["mask"] = rng.random(shapes.get(mask, (batch, *spatial))) < 0.6
    if mask == "all-masked-sample":
        arrays["mask"][0] = False
    return arrays


def build(framework, weight, channels, axis=None, **options):
    """A layer that holds a canonical weight."""
    built = framework.build(channels, np.shape(weight)[-1], channel_axis=axis, shared=np.ndim(weight) == 1, **options)
    weights = import_module("eca_multi.flax.linen") if framework.kind == "jax" else framework.package
    built.holder = weights.from_canonical(built.holder, {"weight": weight})
    return built


def run(framework, arrays, axis=None, x_dtype="float32", **options):
    """Return y of a layer, channels first, in float64; its dtype is checked on the way."""
    axis = framework.native_axis if axis is None else axis
    layer = build(framework, arrays["weight"], arrays["x"].shape[1], axis, **options)
    x = framework.tensor(np.moveaxis(arrays["x"], 1, axis), x_dtype)
    y = layer(x, framework.tensor(arrays["mask"]) if "mask" in arrays else None)
    assert framework.dtype_of(y) == x_dtype
    return np.moveaxis(framework.numpy(y), axis, 1)


def budget_use(y, arrays, dtype="float32", **options):
    """The largest error as a part of what is allowed there; above 1 is wrong."""
    expected, allowed = oracle(arrays, options, dtype)["y"]
    assert y.shape == expected.shape
    return np.max(np.abs(y - expected) / allowed, initial=0.0)


def storage(framework, dtype):
    """The options that give a layer a parameter of a dtype."""
    if framework.kind == "torch":
        return {"dtype": getattr(torch, dtype)}
    return {"dtype" if framework.kind == "keras" else "param_dtype": dtype}


def mixed(framework, dtype):
    """The options that give a layer a float32 parameter and inputs of another dtype."""
    return {"dtype": f"mixed_{dtype}"} if framework.kind == "keras" and dtype != "float32" else {}


# --- the formula -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize(("rank", "mask", "options"), LAYOUTS, ids=[f"{r}d-{m}" for r, m, _ in LAYOUTS])
def test_ranks_layouts_and_masks(framework, rng, rank, axis, mask, options):
    arrays = draw(rng, SHAPES[rank], shared=options["shared"], mask=mask)
    call = {"padding": options["padding"], "gate": options["gate"]}
    assert budget_use(run(framework, arrays, axis, **call), arrays, **call) <= 1


@pytest.mark.parametrize("options", OPTIONS, ids=["-".join(map(str, o.values())) for o in OPTIONS])
def test_options(framework, rng, options):
    arrays = draw(rng, k=5, shared=options["shared"])
    call = {"padding": options["padding"], "gate": options["gate"]}
    assert budget_use(run(framework, arrays, **call), arrays, **call) <= 1


@pytest.mark.parametrize("options", OPTIONS, ids=["-".join(map(str, o.values())) for o in OPTIONS])
def test_options_with_one_sample(framework, rng, options):
    """One sample may have a path of its own, which knows not every option: conv1d in torch."""
    arrays = draw(rng, (1, *SHAPE[1:]), k=5, shared=options["shared"])
    call = {"padding": options["padding"], "gate": options["gate"]}
    assert budget_use(run(framework, arrays, **call), arrays, **call) <= 1


@pytest.mark.parametrize(
    ("channels", "k", "padding", "shared"),
    [
        (3, 7, "zeros", True),
        (3, 7, "circular", True),  # k = 2 * C + 1, the widest that wraps around once
        (4, 7, "circular", False),
        (5, 1, "zeros", True),
        (5, 1, "circular", False),
        (1, 1, "zeros", True),
        (1, 3, "circular", True),
    ],
)
def test_few_channels_and_small_kernels(framework, rng, channels, k, padding, shared):
    arrays = draw(rng, (2, channels, 5, 4), k, shared)
    assert budget_use(run(framework, arrays, padding=padding), arrays, padding=padding) <= 1


@pytest.mark.parametrize(
    "mutate",
    [
        lambda a: {**a, "weight": a["weight"][::-1].copy()},
        lambda a: {**a, "weight": np.append(a["weight"][1:], 0)},
        lambda a: {**a, "x": a["x"][::-1].copy()},
        lambda a: {**a, "x": np.concatenate([a["x"][:, 1:], a["x"][:, :1]], 1)},
        lambda a: {**a, "mask": ~a["mask"]},
    ],
    ids=["flipped-kernel", "shifted-kernel", "swapped-batch", "rolled-channels", "inverted-mask"],
)
def test_the_comparison_rejects(framework, rng, mutate):
    """The control: what the layer returns for slightly other arrays is far outside the budget of these."""
    arrays = draw(rng, mask="full")
    assert budget_use(run(framework, mutate(arrays)), arrays) > 100


def test_a_gate_over_the_wrong_axis_is_rejected(framework, rng):
    """Where C equals a spatial extent, the wrong axis gives the right shape and another result."""
    arrays = draw(rng, (2, 7, 5, 7))
    x = framework.tensor(arrays["x"], "float32")
    results = {axis: framework.numpy(build(framework, arrays["weight"], 7, axis)(x)) for axis in (1, -1)}
    assert budget_use(results[1], arrays) <= 1
    assert budget_use(results[-1], arrays) > 100


@pytest.mark.only("keras")
def test_kerass_own_mask_holds_for_all_axes_behind_time(framework, rng):
    arrays = draw(rng, mask="full")
    arrays["mask"] = np.arange(5) < np.array([[3], [5]])  # (N, T) for x of (N, T, W, C)
    y = run(framework, arrays)
    arrays["mask"] = arrays["mask"][:, :, None]
    assert budget_use(y, arrays) <= 1


def test_no_sample_sees_another(framework, rng):
    arrays = draw(rng)
    other = {**arrays, "x": arrays["x"].copy()}
    other["x"][1] = 100 * rng.normal(size=SHAPE[1:])
    y, y_other = run(framework, arrays), run(framework, other)
    np.testing.assert_array_equal(y[0], y_other[0])
    assert not np.array_equal(y[1], y_other[1])


def test_the_gate_is_one_number_per_sample_and_channel(framework, rng):
    arrays = draw(rng)
    gate = run(framework, arrays) / arrays["x"]
    mean = gate.mean((2, 3))
    # A float32 product and quotient: two roundings.
    np.testing.assert_allclose(gate, np.broadcast_to(mean[:, :, None, None], SHAPE), rtol=2**-22)
    assert np.ptp(mean, axis=1).min() > 0.1
    assert np.ptp(mean, axis=0).min() > 1e-4


def test_empty_batch(framework, rng):
    for mask in ("none", "full"):
        arrays = draw(rng, (0, 6, 5, 4), mask=mask)
        assert run(framework, arrays).shape == (0, 6, 5, 4)


def test_a_gate_of_ones_own(framework, rng):
    tanh = {"torch": torch.tanh, "keras": keras.ops.tanh}.get(framework.kind, jax.numpy.tanh)
    arrays = draw(rng)
    y = run(framework, arrays, gate=tanh)
    logits = reference.forward(arrays["x"], arrays["weight"]).logits[:, :, None, None]
    # tanh is as steep as 2 * sigmoid(2 z) - 1: the error of the logits, a few units of |z| + |p|, arrives whole.
    np.testing.assert_allclose(y, arrays["x"] * np.tanh(logits), rtol=0, atol=100 * 2**-24 * np.abs(arrays["x"]).max())


# --- the kernel size ---------------------------------------------------------------------------------------------


@pytest.mark.only("torch", "keras", "linen", "nnx")
@pytest.mark.parametrize("channels", [7, 8])
def test_kernel_size_follows_the_rule(framework, channels):
    def taps(kernel_size=None, **constants):
        holder = framework.build(channels, kernel_size, **constants).holder
        return framework.package.to_canonical(holder)["weight"].shape

    assert taps() == (eca_kernel_size(channels),)
    assert taps(gamma=0.5, beta=0.5) == (eca_kernel_size(channels, gamma=0.5, beta=0.5),)
    assert taps(9) == (9,)
    assert taps(1, gamma=0.5) == (1,)


# --- the function ------------------------------------------------------------------------------------------------


@pytest.mark.only("torch", "keras", "jax")
def test_function_returns_the_gate(framework, rng):
    arrays = draw(rng, mask="full")
    x, weight = (framework.tensor(arrays[name], "float32") for name in ("x", "weight"))
    mask = framework.tensor(arrays["mask"])
    y, gate = framework.package.eca(x, weight, channel_axis=1, mask=mask, return_gate=True)
    expected = reference.forward(arrays["x"], arrays["weight"], mask=arrays["mask"])
    assert framework.dtype_of(gate) == "float32"
    assert framework.numpy(gate).shape == (2, 11)
    # y / x bounds the gate's error by y's, where x is largest.
    allowed = oracle(arrays, {}, "float32")["y"][1] / np.abs(arrays["x"])
    assert (np.abs(framework.numpy(gate) - expected.gate) <= allowed.min((2, 3))).all()
    product = framework.numpy(x) * framework.numpy(gate)[:, :, None, None]
    np.testing.assert_allclose(framework.numpy(y), product, rtol=2**-24)
    alone = framework.package.eca(x, weight, channel_axis=1, mask=mask)
    np.testing.assert_array_equal(framework.numpy(alone), framework.numpy(y))


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_function_computes_the_gate_in_float32(framework, rng, half):
    arrays = draw(rng, dtype=half)
    x, weight = framework.tensor(arrays["x"], half), framework.tensor(arrays["weight"], half)
    y, gate = framework.package.eca(x, weight, channel_axis=1, return_gate=True)
    assert framework.dtype_of(y) == half
    assert framework.dtype_of(gate) == "float32"


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-channel"])
def test_function_takes_the_layers_weight_and_a_plain_one(framework, rng, shared):
    arrays = draw(rng, shared=shared)
    x = framework.tensor(arrays["x"], "float32")
    native = np.atleast_2d(arrays["weight"])[:, None]  # (1 or C, 1, k)
    native = native if framework.kind == "torch" else native.transpose(2, 1, 0)
    for weight in [native, arrays["weight"]][: 2 if shared else 1]:
        y = framework.package.eca(x, framework.tensor(weight, "float32"), channel_axis=1)
        assert budget_use(framework.numpy(y), arrays) <= 1


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2, -3])
def test_function_takes_any_channel_axis(framework, rng, axis):
    arrays = draw(rng, mask="full")
    x, mask = np.moveaxis(arrays["x"], 1, axis), framework.tensor(arrays["mask"])
    weight = framework.tensor(arrays["weight"], "float32")
    y = framework.package.eca(framework.tensor(x, "float32"), weight, channel_axis=axis, mask=mask)
    assert budget_use(np.moveaxis(framework.numpy(y), axis, 1), arrays) <= 1


# --- dtypes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("mask", ["none", "full"])
def test_half_precision_inputs_with_a_float32_weight(framework, rng, dtype, mask):
    arrays = draw(rng, dtype=dtype, mask=mask)
    y = run(framework, arrays, x_dtype=dtype, **mixed(framework, dtype))
    assert budget_use(y, arrays, dtype) <= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weight(framework, rng, dtype):
    arrays = draw(rng, dtype=dtype)
    arrays["weight"] = budget.quantise(arrays["weight"], dtype)
    y = run(framework, arrays, x_dtype=dtype, **storage(framework, dtype))
    assert budget_use(y, arrays, dtype) <= 1


@pytest.mark.parametrize("mask", ["none", "full"])
@pytest.mark.parametrize("low", [200, 2e4])
def test_a_float16_sum_would_overflow(framework, rng, low, mask):
    arrays = draw(rng, (2, 5, 64, 64), mask=mask)
    arrays["x"] = budget.quantise(rng.uniform(low, 3 * low, (2, 5, 64, 64)), "float16")
    arrays["weight"] = budget.quantise(arrays["weight"] / low, "float32")
    assert arrays["x"].sum((2, 3)).min() > np.finfo(np.float16).max
    y = run(framework, arrays, x_dtype="float16", **mixed(framework, "float16"))
    assert budget_use(y, arrays, "float16") <= 1


@pytest.fixture
def x64(framework):
    """JAX rounds to float32 unless it is told not to."""
    if framework.name == "keras-jax":
        pytest.skip("Keras fixes the precision of its JAX backend at import")
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("mask", ["none", "full"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-channel"])
@pytest.mark.usefixtures("x64")
def test_float64_stays_float64(framework, rng, shared, mask):
    arrays = draw(rng, shared=shared, mask=mask)
    arrays["x"] = rng.normal(size=SHAPE) + arrays["x"]
    arrays["weight"] = arrays["weight"] + rng.uniform(0, 2**-24)
    y = run(framework, arrays, x_dtype="float64", **storage(framework, "float64"))
    # All rounding shrinks by 2**-29 from float32 to float64; the oracle itself now errs as much.
    assert budget_use(y, arrays) <= 2 * 2.0**-29


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_identity_returns_x_bit_for_bit(framework, rng, dtype):
    channels = 6
    layer = framework.build(channels, init="identity", gate="2sigmoid", channel_axis=1, **mixed(framework, dtype))
    x = framework.tensor(draw(rng, (2, channels, 5, 4), dtype=dtype, scale=100)["x"], dtype)
    y = layer(x)
    assert framework.dtype_of(y) == dtype
    np.testing.assert_array_equal(framework.numpy(y), framework.numpy(x))


# --- the initial kernel ------------------------------------------------------------------------------------------


def kolmogorov_distance(sample, bound):
    """The largest difference between the sample's distribution function and that of U(-bound, bound)."""
    uniform = (np.sort(sample) + bound) / (2 * bound)
    n = len(sample)
    return max(np.max(np.arange(1, n + 1) / n - uniform), np.max(uniform - np.arange(n) / n))


def critical_distance(n):
    """What a right sample exceeds once in a million (Kolmogorov)."""
    return math.sqrt(-math.log(1e-6 / 2) / (2 * n))


@pytest.mark.only("torch", "keras", "linen", "nnx")
@pytest.mark.parametrize("k", [1, 3, 9])
def test_initial_kernel_is_uniform(framework, k):
    keras.utils.set_random_seed(20)
    torch.manual_seed(20)
    kernel = framework.package.to_canonical(framework.build(6000, k, shared=False).holder)["weight"]
    sample, bound = kernel.ravel().astype(np.float64), k**-0.5
    assert np.abs(sample).max() <= np.float32(bound)
    assert np.abs(sample.mean()) < 5 * bound / math.sqrt(3 * sample.size)
    # The square of U(-1, 1) has mean 1/3 and variance 4/45.
    assert np.abs((sample**2).mean() / bound**2 - 1 / 3) < 5 * math.sqrt(4 / 45 / sample.size)
    assert kolmogorov_distance(sample, bound) < critical_distance(sample.size)
    assert len(np.unique(kernel, axis=0)) > 5900  # each channel has a draw of its own


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rng, b, n: rng.uniform(0, b, n),
        lambda rng, b, n: rng.normal(0, b / math.sqrt(3), n).clip(-b, b),
        lambda rng, b, n: rng.uniform(-0.9 * b, 0.9 * b, n),
    ],
    ids=["one-sided", "normal", "narrow"],
)
def test_the_distance_sees_another_distribution(rng, wrong):
    n = 6000
    assert kolmogorov_distance(wrong(rng, 0.5, n), 0.5) > critical_distance(n)
    assert kolmogorov_distance(rng.uniform(-0.5, 0.5, n), 0.5) < critical_distance(n)


@pytest.mark.only("torch", "keras")
def test_each_layer_has_a_draw_of_its_own(framework):
    def kernel():
        return framework.package.to_canonical(framework.build(64).holder)["weight"]

    assert not np.array_equal(kernel(), kernel())


@pytest.mark.only("torch", "keras", "linen", "nnx")
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-channel"])
def test_identity_is_zeros(framework, shared):
    layer = framework.build(12, 3, shared=shared, init="identity", gate="2sigmoid")
    kernel = framework.package.to_canonical(layer.holder)["weight"]
    np.testing.assert_array_equal(kernel, np.zeros(3 if shared else (12, 3)))


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circular", "per-channel", "padded-sequences", "short-channels", "other-axis"])
def test_gradients(framework, name):
    job = case_job(name)
    outputs, expected = run_job(framework.kind, job), judged(job)
    for key in ("y", "dx", "dw"):
        assert outputs[key].dtype == "float32"
        values, (right, allowed) = outputs[key].values, expected[key]
        assert values.shape == right.shape
        assert (np.abs(values - right) <= allowed).all(), key  # False also where a value is NaN


def test_gradients_of_a_detached_gate_are_rejected():
    """The control: without the path through the gate dx is far outside the budget, and so is a flipped dw."""
    job = case_job("padded-sequences")
    right = judged(job)
    gate = reference.forward(job.inputs["x"], job.weights["w"], mask=job.inputs["mask"]).gate
    detached = job.cotangents["y"] * gate[:, :, None]
    assert (np.abs(detached - right["dx"][0]) > 100 * right["dx"][1]).any()
    assert (np.abs(right["dw"][0][::-1] - right["dw"][0]) > 100 * right["dw"][1]).any()


def test_a_callable_gate_must_keep_the_shape(framework):
    x = np.ones((1, 6, 5, 4) if framework.native_axis == 1 else (1, 5, 4, 6), np.float32)
    double = {"torch": "cat", "keras": "concatenate"}.get(framework.kind, "concatenate")
    module = {"torch": torch, "keras": keras.ops}.get(framework.kind, jnp)

    def run():  # linen already calls its gate when it is built
        framework.build(6, 3, gate=lambda logits: getattr(module, double)([logits, logits], 0))(framework.tensor(x))

    with pytest.raises(ValueError, match=r"gate must be a function that keeps the shape \(1, 6\)"):
        run()
