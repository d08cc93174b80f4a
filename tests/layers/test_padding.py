"""What a mask leaves out may be NaN or infinite, and reaches no gradient: the oracle's, and that of every framework."""

from unittest import mock

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch

from eca_multi import reference
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.specs import eca as eca_spec
from tests.support.oracle import case_job, judged, within
from tests.support.oracle import run as run_job

BAD_PADDING = ("nan-padding", "infinite-padding")
each_padding = pytest.mark.parametrize("name", BAD_PADDING)
GRADIENTS = ("dx", "dw", "dx@ones", "dw@ones")


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
        assert within(outputs[key].values, values, allowed).all(), key
        assert (key == "y") != np.isfinite(values).all()


@pytest.mark.slow
@pytest.mark.only("torch", "keras", "jax")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bad_padding_reaches_no_gradient_in_half_precision(framework, dtype):
    job = case_job("infinite-padding", dtype)
    outputs, expected = run_job(framework.kind, job), judged(job, ("y", *GRADIENTS))
    for key, (values, allowed) in expected.items():
        assert within(outputs[key].values, values, allowed).all(), key


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


# --- derivatives of other kinds ---------------------------------------------------------------------------------------

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
    with mock.patch(f"{__name__}.problem", return_value=(np.where(np.isfinite(x), x, 0.0), *problem()[1:])):
        return of_torch(derivative, torch.float64)


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
