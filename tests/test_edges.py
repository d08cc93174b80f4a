"""Numbers and shapes at the edges, one body for every framework: bad padding, overflowing means, empty batches.

What is right is the float64 oracle's, with its own error analysis. Arrays are channels first.
"""

from functools import cache
from importlib import import_module
from unittest import mock

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from oracle import case_job, judged
from oracle import run as run_job

from eca_multi import reference
from eca_multi.parity.budget import DTYPES, rounding
from eca_multi.parity.compare import Verdict, judge
from eca_multi.parity.engines._torch_reference import TorchReference
from eca_multi.parity.fingerprints._common import subnormals
from eca_multi.parity.jobs import Job, Tensor
from eca_multi.parity.specs import eca as eca_spec

BAD_PADDING = ("nan-padding", "infinite-padding")
each_padding = pytest.mark.parametrize("name", BAD_PADDING)
GRADIENTS = ("dx", "dw", "dx@ones", "dw@ones")


def right(values, expected, allowed):
    """Whether each number is within its budget, or the same infinity or NaN."""
    with np.errstate(invalid="ignore"):
        same = (values == expected) | (np.isnan(values) & np.isnan(expected))
        return np.where(np.isfinite(expected), np.abs(values - expected) <= allowed, same)


# --- what the mask leaves out reaches no gradient ---------------------------------------------------------------------


@each_padding
def test_the_oracles_gradients_are_finite(name):
    job = case_job(name)
    x, mask, cotangent = job.inputs["x"], job.inputs["mask"], job.cotangents["y"]
    bad = ~np.isfinite(x)
    assert bad.any()
    assert not (bad & mask[:, None]).any()
    out = reference.forward(x, job.weights["w"], mask=mask)
    grads = reference.backward(x, job.weights["w"], cotangent, mask=mask)
    np.testing.assert_array_equal(out.y, x * out.gate[:, :, None])  # the padding is gated as it was
    assert all(np.isfinite(grad).all() for grad in vars(grads).values())
    np.testing.assert_array_equal(grads.dx[bad], (cotangent * out.gate[:, :, None])[bad])


def test_the_oracle_drops_bad_padding_alone():
    """The rest of its gradients is that of a map with 0 there: finite padding, with its cotangent, counts as ever."""
    job = case_job("infinite-padding")
    x, w, mask, cotangent = job.inputs["x"], job.weights["w"], job.inputs["mask"], job.cotangents["y"]
    filled = np.where(np.isfinite(x), x, 0)
    expected = reference.backward(filled, w, cotangent, mask=mask)
    for name, grad in vars(reference.backward(x, w, cotangent, mask=mask)).items():
        np.testing.assert_array_equal(grad, getattr(expected, name))
    valid_alone = reference.backward(np.where(mask[:, None], x, 0), w, cotangent, mask=mask)
    assert np.abs(valid_alone.dw - expected.dw).min() > 0.1  # the control: finite padding does count


@each_padding
def test_bad_padding_reaches_no_gradient(framework, name):
    job = case_job(name)
    outputs, expected = run_job(framework.kind, job), judged(job, ("y", *GRADIENTS))
    for key, (values, allowed) in expected.items():
        assert right(outputs[key].values, values, allowed).all(), key
        assert (key == "y") != np.isfinite(values).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bad_padding_reaches_no_gradient_in_half_precision(framework, dtype):
    job = case_job("infinite-padding", dtype)
    outputs, expected = run_job(framework.kind, job), judged(job, ("y", *GRADIENTS))
    for key, (values, allowed) in expected.items():
        assert right(outputs[key].values, values, allowed).all(), key


@pytest.mark.parametrize("name", BAD_PADDING)
def test_a_product_written_plainly_is_rejected(name):
    """The control: the same data, with autograd's own derivative of x * g."""
    job = case_job(name)
    x, mask = torch.tensor(job.inputs["x"]), torch.tensor(job.inputs["mask"])[:, None]
    w = torch.tensor(job.weights["w"], requires_grad=True)
    pooled = torch.where(mask, x, 0).sum(2) / mask.sum(2).clamp(min=1)
    g = torch.sigmoid(torch.nn.functional.conv1d(pooled[:, None], w[None, None], padding=1))[:, 0]
    (x * g[..., None]).backward(torch.tensor(job.cotangents["y"]))
    assert not w.grad.isfinite().any()


# --- the same in derivatives of other kinds --------------------------------------------------------------------------

DERIVATIVES = ("forward", "reverse", "forward over reverse", "reverse over reverse")


def problem():
    """x with NaN and infinities in its padding, a weight, a mask, and the directions of both."""
    rng = np.random.default_rng(7)
    mask = np.arange(6) < np.array([[4], [6], [0]])
    x, dx = rng.normal(size=(2, 3, 5, 6))
    x[0, :, 4], x[0, ::2, 5], x[2, 1] = np.nan, np.inf, np.nan
    return x, rng.normal(size=3), mask, dx, rng.normal(size=3)


def of_torch(derivative, dtype=torch.float32):
    """A loss that looks at the valid positions, and a derivative of it, by x and by the weight."""
    from eca_multi.torch import eca

    x, w, mask, dx, dw = (torch.tensor(a, dtype=None if a.dtype == bool else dtype) for a in problem())

    def loss(x, w):
        y = torch.where(mask[:, None], eca(x, w, mask=mask), 0)
        return (y**2).sum()

    if derivative == "forward":
        return [torch.func.jvp(loss, (x, w), (dx, dw))[1]]
    if derivative == "reverse":
        return torch.func.grad(loss, (0, 1))(x, w)
    if derivative == "forward over reverse":
        return torch.func.jvp(torch.func.grad(loss, (0, 1)), (x, w), (dx, dw))[1]

    def along(x, w):
        return sum((g * d).sum() for g, d in zip(torch.func.grad(loss, (0, 1))(x, w), (dx, dw), strict=True))

    return torch.func.grad(along, (0, 1))(x, w)


def of_eager_torch(derivative):
    from torch.autograd import forward_ad

    from eca_multi.torch import eca

    x, w, mask, dx, dw = (torch.tensor(a, dtype=None if a.dtype == bool else torch.float32) for a in problem())

    def loss(x, w):
        y = torch.where(mask[:, None], eca(x, w, mask=mask), 0)
        return (y**2).sum()

    def gradients(x, w, **options):
        return torch.autograd.grad(loss(x, w), (x, w), **options)

    leaves = x.requires_grad_(), w.requires_grad_()
    if derivative == "reverse":
        return gradients(*leaves)
    if derivative == "reverse over reverse":
        inner = sum((g * d).sum() for g, d in zip(gradients(*leaves, create_graph=True), (dx, dw), strict=True))
        return torch.autograd.grad(inner, leaves)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, d) for leaf, d in zip(leaves, (dx, dw), strict=True)]
        results = [loss(*duals)] if derivative == "forward" else gradients(*duals)
        return [forward_ad.unpack_dual(result).tangent for result in results]


def of_jax(derivative):
    from eca_multi.jax import eca

    x, w, mask, dx, dw = map(jnp.asarray, problem())

    def loss(x, w):
        y = jnp.where(mask[:, None], eca(x, w, mask=mask, channel_axis=1), 0)
        return (y**2).sum()

    grad = jax.grad(loss, (0, 1))
    if derivative == "forward":
        return [jax.jvp(loss, (x, w), (dx, dw))[1]]
    if derivative == "reverse":
        return grad(x, w)
    if derivative == "forward over reverse":
        return jax.jvp(grad, (x, w), (dx, dw))[1]
    return jax.grad(lambda x, w: sum((g * d).sum() for g, d in zip(grad(x, w), (dx, dw), strict=True)), (0, 1))(x, w)


def of_compiled_jax(derivative):
    return jax.jit(of_jax, static_argnums=0)(derivative)


def of_a_map_without_bad_padding(derivative):
    x = problem()[0]
    with mock.patch(f"{__name__}.problem", lambda: (np.where(np.isfinite(x), x, 0.0), *ORIGINAL[1:])):
        return of_torch(derivative, torch.float64)


ORIGINAL = problem()


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("route", [of_torch, of_eager_torch, of_compiled_jax], ids=["torch-func", "torch", "jax"])
def test_bad_padding_reaches_no_derivative_of_any_kind(route, derivative):
    expected = of_a_map_without_bad_padding(derivative)
    for values, right in zip(route(derivative), expected, strict=True):
        values, right = np.asarray(values.detach() if hasattr(values, "detach") else values), right.numpy()
        np.testing.assert_allclose(values, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())


def test_a_budget_by_noise_is_finite_too():
    """For those whose reference is a layer in float64: ECA's own budget is an analysis, and this one is measured."""
    job = case_job("infinite-padding")
    for name, (values, error) in TorchReference(eca_spec.Torch()).solve(job).items():
        assert np.isfinite(error[np.isfinite(values)]).all(), name


@pytest.mark.keras
def test_bad_padding_in_a_model_of_kerass_functional_api():
    """There the operations of the function are recorded, and its Python does not run again."""
    from eca_multi.keras import eca

    x, w, mask, *_ = problem()
    x, mask = np.moveaxis(x, 1, -1).astype(np.float32), np.broadcast_to(mask, (3, 6))
    inputs, masks = keras.Input((None, 5)), keras.Input((None,), dtype="bool")
    model = keras.Model([inputs, masks], eca(inputs, w.astype(np.float32), mask=masks))
    y = keras.ops.convert_to_numpy(model([x, mask]))
    expected = keras.ops.convert_to_numpy(eca(keras.ops.convert_to_tensor(x), w.astype(np.float32), mask=mask))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.keras
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's tapes and accumulators")
def test_bad_padding_reaches_no_derivative_of_any_kind_in_tensorflow():
    import tensorflow as tf

    from eca_multi.keras import eca

    def derivatives(x):
        x, w, mask = (tf.constant(a, None if a.dtype == bool else "float32") for a in (x, *problem()[1:3]))

        def loss(x, w):
            y = eca(x, w, mask=mask, channel_axis=1)
            return tf.reduce_sum(tf.where(mask[:, None], y, 0.0) ** 2)

        with tf.GradientTape() as outer:
            outer.watch([x, w])
            with tf.GradientTape() as inner:
                inner.watch([x, w])
                value = loss(x, w)
            first = inner.gradient(value, [x, w])
            total = sum(tf.reduce_sum(tf.sin(gradient)) for gradient in first)
        with tf.autodiff.ForwardAccumulator([w], [tf.ones_like(w)]) as forward:
            value = loss(x, w)
        return [*first, *outer.gradient(total, [x, w]), forward.jvp(value)]

    x = problem()[0]
    for ours, clean in zip(derivatives(x), derivatives(np.where(np.isfinite(x), x, 0)), strict=True):
        np.testing.assert_array_equal(ours, clean)


# --- means near the largest number -----------------------------------------------------------------------------------

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
        assert right(outputs[key].values, values, allowed).all(), key


def test_where_a_sum_overflows_all_frameworks_are_alike(framework):
    """The mean is infinite, its gates are at their ends, and dw has no value. No other sample takes part."""
    job = near_overflow(1.1)
    outputs, expected = run_job(framework.kind, job), judged(job)
    values, allowed = expected["y"]
    assert right(outputs["y"].values, values, allowed).all()  # a sigmoid at its end is right for any such mean
    assert (outputs["y"].values[0, 3] == 0).all()
    assert (outputs["y"].values[0, [2, 4]] == job.inputs["x"][0, [2, 4]]).all()
    assert not np.isfinite(outputs["dw"].values).any()
    assert np.isfinite(expected["dw"][0]).all()
    assert right(outputs["dx"].values[1], *(part[1] for part in expected["dx"])).all()
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
    primitives = {"torch": "Torch", "jax": "Jax", "tensorflow": "TensorFlow"}[name] + "Primitives"
    return subnormals(getattr(import_module(f"eca_multi.parity.fingerprints._{name}"), primitives)(), dtype)


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


# --- tensors of torch that lie in memory in other ways ------------------------------------------------------------------

SMALL, LARGE = (2, 6, 3, 4), (4, 64, 16, 17)  # the larger has the fused backward pass


def _negative(a):
    return torch._neg_view(-a)


def _imaginary(a):
    """The imaginary part of a conjugate: the way in which the negative bit comes about; `to` keeps it."""
    view = torch.complex(torch.zeros(()), -a.float()).conj().imag.to(a.dtype)
    assert a.dtype != torch.float32 or view.is_neg()
    return view


def _every_second(a):
    wide = a.new_zeros(*a.shape[:-1], 2 * a.shape[-1])
    wide[..., ::2] = a
    return wide[..., ::2]


def _channels_last(a):
    return a.movedim(1, -1).contiguous().movedim(-1, 1)


VIEWS = {
    "negative": _negative,
    "imaginary part of a conjugate": _imaginary,
    "negative, channels last": lambda a: _negative(_channels_last(a)),
    "strided": _every_second,
    "transposed": lambda a: a.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda a: a[:1, :1, :1, :1].expand(a.shape),
    "expanded over the batch": lambda a: a[:1].expand(a.shape),
    "expanded over the channels": lambda a: a[:, :1].expand(a.shape),
    "expanded over space": lambda a: a[..., :1, :1].expand(a.shape),
    "overlapping": lambda a: a.flatten().as_strided(a.shape, (a.shape[1], 1, 3, 1)),
}
each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def of_torchs(x, w, dy, mask):
    from eca_multi.torch import eca

    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y, g = eca(x, w, mask=mask, return_gate=True)
    return y.detach(), g.detach(), *torch.autograd.grad(y, (x, w), dy)


def in_order(a):
    return a.resolve_neg().clone(memory_format=torch.contiguous_format)


@each_view
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_a_view_is_read_as_what_it_shows(shape, dtype, view):
    generator = torch.Generator().manual_seed(5)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    w, mask = torch.randn(1, 1, 3, generator=generator), torch.rand(shape[0], *shape[2:], generator=generator) < 0.6
    weights = (w, torch._neg_view(-w), w[..., :1].expand(1, 1, 3), w.expand(shape[1], 1, 3))
    calls = [(view(x), w, dy, None), (x, w, view(dy), None), (view(x), w, view(dy), mask)]
    calls += [(x, weight, dy, None) for weight in weights] + [(x, w, dy, mask[:1, :1].expand(mask.shape))]
    # The orders of summation differ. All terms are near 1, at most 1088 for each gate, and dw sums all of dy * x.
    unit = torch.finfo(dtype).eps
    for x_, w_, dy_, mask_ in calls:
        expected = of_torchs(in_order(x_), in_order(w_), in_order(dy_), None if mask_ is None else mask_.clone())
        for values, right in zip(of_torchs(x_, w_, dy_, mask_), expected, strict=True):
            torch.testing.assert_close(values, right, rtol=8 * unit, atol=1e-5 * float(right.abs().max()) + unit)


def test_a_lost_sign_is_seen(monkeypatch):
    """The control: torch's copy_ from a negative float16 view to float32, which ECA used to call."""
    from eca_multi.torch import _feature_map

    x = torch.randn(LARGE, generator=torch.Generator().manual_seed(5)).half()
    plain = of_torchs(x, torch.ones(3), x, None)
    monkeypatch.setattr(torch.Tensor, "resolve_neg", lambda self: self)
    assert _feature_map.layout_of(_negative(x), 1) == "rows"
    lost = of_torchs(_negative(x), torch.ones(3), x, None)
    monkeypatch.undo()
    assert not torch.allclose(lost[1], plain[1], atol=0.1)


def test_a_view_that_compilers_see():
    from eca_multi.torch import eca

    x, w = torch.randn(SMALL, generator=torch.Generator().manual_seed(5)).half(), torch.ones(3)
    compiled = torch.compile(eca, backend="aot_eager", fullgraph=True)
    for view in (_negative, VIEWS["expanded over space"], _every_second):
        torch.testing.assert_close(compiled(view(x), w), eca(in_order(view(x)), w))


# --- empty batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradients_of_an_empty_batch(framework, dtype):
    job = case_job("empty-batch", dtype)
    outputs = run_job(framework.kind, job)
    for name, (values, allowed) in judged(job, ("y", *GRADIENTS)).items():
        assert outputs[name].values.shape == values.shape
        assert judge(outputs[name], values, allowed, dtype).verdict is Verdict.BITWISE
    assert (outputs["dw"].values == 0).all()
    wrong = Tensor(outputs["dw"].values + 1, dtype)  # the control: its budget is next to nothing
    assert judge(wrong, *judged(job)["dw"], dtype).verdict is Verdict.EXCEEDS_BUDGET


@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize(
    "options", [{}, {"padding": "circular"}, {"gate": "hard_sigmoid"}, {"per channel": True}], ids=str
)
@pytest.mark.parametrize("mask", [False, True], ids=["", "masked"])
def test_the_gates_of_an_empty_batch(framework, options, mask):
    options = dict(options)
    weight = np.ones((1 if not options.pop("per channel", False) else 6, 1, 3), np.float32)
    weight = weight if framework.kind == "torch" else np.moveaxis(weight, 0, -1).swapaxes(0, 1)
    x, masks = np.ones((0, 6, 5, 4), np.float32), np.ones((0, 5, 4), bool)
    options |= {"channel_axis": 1, "return_gate": True, "mask": framework.tensor(masks) if mask else None}
    y, g = framework.package.eca(framework.tensor(x), framework.tensor(weight), **options)
    assert (tuple(y.shape), tuple(g.shape)) == ((0, 6, 5, 4), (0, 6))


def empty_in_torch():
    from eca_multi.torch import ECA, eca

    x, w, mask = torch.zeros(0, 6, 5, 4), torch.ones(1, 1, 3), torch.zeros(0, 5, 4, dtype=torch.bool)
    yield torch.func.vmap(lambda x: eca(x, w))(x[None].expand(3, *x.shape)), (3, 0, 6, 5, 4)
    yield torch.func.vmap(lambda x: eca(x, w))(torch.zeros(0, 2, 6, 5, 4)), (0, 2, 6, 5, 4)
    yield torch.func.grad(lambda w: eca(x, w, mask=mask).sum())(w), (1, 1, 3)
    yield torch.compile(eca, backend="aot_eager", fullgraph=True)(x, w, mask=mask), x.shape
    yield torch.jit.script(ECA(6))(x), x.shape


def empty_in_jax():
    from eca_multi.jax import eca

    x, w, mask = jnp.zeros((0, 5, 4, 6)), jnp.ones(3), jnp.zeros((0, 5, 4), bool)
    yield jax.vmap(lambda x: eca(x, w))(jnp.zeros((3, *x.shape))), (3, *x.shape)
    yield jax.vmap(lambda x: eca(x, w))(jnp.zeros((0, 2, 5, 4, 6))), (0, 2, 5, 4, 6)
    yield jax.jit(jax.grad(lambda w: eca(x, w, mask=mask).sum()))(w), (3,)


@pytest.mark.parametrize("route", [empty_in_torch, empty_in_jax])
def test_an_empty_batch_under_transforms(route):
    for result, shape in route():
        assert tuple(result.shape) == tuple(shape)


@pytest.mark.keras
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graphs")
@pytest.mark.parametrize("masked", [False, True])
def test_a_graph_of_tensorflow_takes_an_empty_batch(masked):
    """It ended the process: TensorFlow's graph optimiser divides by a size of 0 in the gradient of a reshape."""
    import tensorflow as tf

    from eca_multi.keras import eca

    @tf.function
    def gradient(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = eca(x, w, mask=tf.zeros((0, 5, 4), "bool") if masked else None)
        return tape.gradient(y, w)

    assert (gradient(tf.zeros((0, 5, 4, 6)), tf.ones((3, 1, 1))).numpy() == 0).all()


@pytest.mark.keras
def test_the_networks_of_keras_take_an_empty_batch_where_convolutions_do():
    import eca_multi.keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # It returns its input's shape. Should TensorFlow learn it, docs/frameworks.md is to say so.
        assert tf.nn.convolution(tf.zeros((0, 9, 9, 3)), tf.zeros((3, 3, 3, 8))).shape == (0, 9, 9, 3)
        return
    assert tuple(eca_multi.keras.eca_resnet18()(np.zeros((0, 32, 32, 3), np.float32)).shape) == (0, 1000)


def network_of_torch():
    from eca_multi.torch import eca_resnet18

    with torch.no_grad():
        return eca_resnet18().eval()(torch.zeros(0, 3, 32, 32))


def network_of_nnx():
    from flax import nnx

    from eca_multi.flax.nnx import eca_resnet18

    return nnx.eval_shape(lambda x: eca_resnet18(rngs=nnx.Rngs(0))(x), jnp.zeros((0, 32, 32, 3)))


def network_of_linen():
    from eca_multi.flax.linen import eca_resnet18

    return jax.eval_shape(eca_resnet18().init_with_output, jax.random.key(0), jnp.zeros((0, 32, 32, 3)))[0]


@pytest.mark.parametrize("network", [network_of_torch, network_of_nnx, network_of_linen])
def test_a_network_takes_an_empty_batch(network):
    assert network().shape == (0, 1000)


def test_a_network_into_which_eca_was_inserted_takes_an_empty_batch():
    from eca_multi.torch import insert_eca

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
    insert_eca(model, "conv", gate="sigmoid", init="uniform")
    model(torch.zeros(0, 3, 12, 12)).sum().backward()
