"""An optimizer from before the insertion is refused, and its moments go on in a new one; bfloat16 computation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx, serialization
from flax.traverse_util import flatten_dict, unflatten_dict

import eca_multi.flax.linen as on_linen
import eca_multi.flax.nnx as on_nnx

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.float32)
HALF = jnp.bfloat16
pytestmark = pytest.mark.slow


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 3, (3, 3), dtype=HALF, rngs=rngs)
        self.norm = nnx.BatchNorm(3, dtype=HALF, rngs=rngs)

    def __call__(self, x):
        x = x.astype(HALF)
        return x + self.norm(self.conv(x))


@nnx.jit
def nnx_step(model, optimizer):
    optimizer.update(model, nnx.grad(lambda model: (model(X).astype(jnp.float32) ** 2).mean())(model))


def test_nnx():
    model = Nnx(nnx.Rngs(0))
    old = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    for _ in range(3):
        nnx_step(model, old)
    weights, before = nnx.to_pure_dict(nnx.state(model)), nnx.clone(model)(X)
    on_nnx.insert_eca(model, example_inputs=X)
    assert model.norm.eca.kernel.dtype == jnp.float32
    after = nnx.clone(model)(X)
    assert after.dtype == HALF
    assert np.array_equal(before, after)
    assert jax.tree.all(jax.tree.map(np.array_equal, weights, on_nnx.base_state(model)))
    with pytest.raises(ValueError, match="structure"):  # the control: the optimizer from before
        nnx_step(model, old)
    new = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    nnx.update(new, nnx.state(old))  # the moments that there are, and the count of steps
    assert new.step.get_value() == 3
    nnx_step(model, new)
    assert model.norm.eca.kernel.get_value().any()
    assert new.step.get_value() == 4


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = x.astype(HALF)
        y = nn.Conv(3, (3, 3), dtype=HALF, name="conv")(x)
        return x + nn.BatchNorm(use_running_average=not train, dtype=HALF, name="norm")(y)


def linen_step(module, variables, adam, state):
    def loss(params):
        y, more = module.apply({**variables, "params": params}, X, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 2).mean(), more

    gradient, more = jax.grad(loss, has_aux=True)(variables["params"])
    updates, state = adam.update(gradient, state, variables["params"])
    return {"params": optax.apply_updates(variables["params"], updates), **more}, state


def test_linen():
    module, adam = Linen(), optax.adam(1e-2)
    variables = module.init(jax.random.key(0), X)
    old = adam.init(variables["params"])
    for _ in range(3):
        variables, old = linen_step(module, variables, adam, old)
    with_eca, more = on_linen.insert_eca(module, variables, example_inputs=X)
    assert more["params"]["norm"]["eca"]["kernel"].dtype == jnp.float32
    before, after = module.apply(variables, X, train=False), with_eca.apply(more, X, train=False)
    assert after.dtype == HALF
    assert np.array_equal(before, after)
    with pytest.raises(ValueError, match="norm"):  # the control: the state from before
        linen_step(with_eca, more, adam, old)
    new = adam.init(more["params"])
    new_moments, old_moments = (
        flatten_dict(serialization.to_state_dict(one), keep_empty_nodes=True) for one in (new, old)
    )
    new = serialization.from_state_dict(new, unflatten_dict(new_moments | old_moments))
    assert new[0].count == 3
    more, new = linen_step(with_eca, more, adam, new)
    assert more["params"]["norm"]["eca"]["kernel"].any()
    assert new[0].count == 4
