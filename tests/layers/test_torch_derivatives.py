"""The derivatives of the torch layer, of both codes, and torch.func over inputs, weights and modules.

All is float64 unless a test says otherwise, and compared with the float64 oracle.
"""

from functools import partial

import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp, vmap

from eca_multi.torch import ECA, eca
from tests.support.layers_torch import (
    DERIVATIVES,
    DIFFERENCES,
    ROUNDING,
    SMALL,
    STEP,
    draw,
    for_torch,
    on_both,
    oracle,
    oracle_grads,
)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradients_are_the_oracles(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    cotangent = torch.from_numpy(rng.normal(size=SMALL))
    x.requires_grad_()
    weight.requires_grad_()
    eca(x, weight, **for_torch(options)).backward(cotangent)
    dx, dw = oracle_grads(x, weight, cotangent, **options)
    torch.testing.assert_close(x.grad, dx, **ROUNDING)
    torch.testing.assert_close(weight.grad, dw, **ROUNDING)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradcheck(kernel, options, rng):
    x, weight = (t.requires_grad_() for t in draw(rng, SMALL, kernel))
    function = partial(eca, return_gate=True, **for_torch(options))
    assert torch.autograd.gradcheck(function, (x, weight), check_forward_ad=True, check_batched_grad=True)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradgradcheck(kernel, options, rng):
    x, weight = (t.requires_grad_() for t in draw(rng, SMALL, kernel))
    function = partial(eca, **for_torch(options))
    assert torch.autograd.gradgradcheck(function, (x, weight), check_fwd_over_rev=True)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_jvp_is_the_oracles_difference(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    dx, dw = draw(rng, SMALL, kernel)
    y, tangent = jvp(partial(eca, **for_torch(options)), (x, weight), (dx, dw))
    ahead = oracle(x + STEP * dx, weight + STEP * dw, **options)
    behind = oracle(x - STEP * dx, weight - STEP * dw, **options)
    torch.testing.assert_close(y, oracle(x, weight, **options), **ROUNDING)
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * STEP), **DIFFERENCES)
    assert tangent.abs().max() > 0.1  # a custom op without a jvp returns zeros, silently


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_hessian_of_the_weight_is_the_oracles_difference(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    cotangent = torch.from_numpy(rng.normal(size=SMALL))
    found = hessian(lambda w: (cotangent * eca(x, w, **for_torch(options))).sum())(weight)
    found = found.reshape(weight.numel(), weight.numel())
    for row, direction in zip(found, torch.eye(weight.numel(), dtype=torch.float64), strict=True):
        step = STEP * direction.reshape(kernel)
        _, ahead = oracle_grads(x, weight + step, cotangent, **options)
        _, behind = oracle_grads(x, weight - step, cotangent, **options)
        torch.testing.assert_close(row, ((ahead - behind) / (2 * STEP)).flatten(), **DIFFERENCES)


@on_both
def test_vmap_over_inputs_and_over_weights(rng):
    xs, _ = draw(rng, (4, 6, 2, 3, 5))  # four inputs (6, 2, 3, 5): N = 6, C = 2
    weights = torch.from_numpy(rng.normal(size=(4, 1, 1, 3)))
    pairs = vmap(eca)(xs, weights)
    ensemble = vmap(eca, in_dims=(None, 0))(xs[0], weights)
    for i in range(4):
        torch.testing.assert_close(pairs[i], oracle(xs[i], weights[i]), **ROUNDING)
        torch.testing.assert_close(ensemble[i], oracle(xs[0], weights[i]), **ROUNDING)


@on_both
def test_gradients_per_sample(rng):
    x, weight = draw(rng, (4, 6, 3, 5))
    cotangent = torch.from_numpy(rng.normal(size=x.shape))
    layer = ECA(6, 3, dtype=torch.float64)

    def loss(weights, x, cotangent):
        return (cotangent[None] * functional_call(layer, weights, (x[None],))).sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0))({"conv.weight": weight}, x, cotangent)["conv.weight"]
    for i in range(4):
        _, dw = oracle_grads(x[i : i + 1], weight, cotangent[i : i + 1])
        torch.testing.assert_close(found[i], dw, **ROUNDING)
