"""ECA under each lifted transform of linen: planned twice, called in both orders, with kernels off the identity.

The control of each is a network of the same variables and no transform. A transform that keeps a trace (nn.jit) would
give the gates of an earlier call, or none.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_multi.flax.linen import insert_eca, plan_eca, remove_eca
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from tests.support.networks_linen import KEY, flat, image, randomised, trained

pytestmark = pytest.mark.usefixtures("unoptimised")

X = image(2, 6, 5, 3)


class Block(nn.Module):
    features: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.relu(x + nn.GroupNorm(2)(nn.Conv(self.features, (3, 3))(x)))


def call(module, x):
    return module(x)


def conditional(module, x):
    return nn.cond(x.sum() < jnp.inf, call, lambda module, x: x, module, x)


def with_gradient(module, x):
    """The value of the call; its gradient is the call's own."""

    def forward(module, x):
        y, vjp = nn.vjp(call, module, x)
        return y, vjp

    def backward(vjp, g):
        return vjp(g)

    return nn.custom_vjp(call, forward, backward)(module, x)


def over_samples(module, x):
    lifted = nn.vmap(call, variable_axes={"params": None}, split_rngs={"params": False})
    return lifted(module, x[:, None])[:, 0]


def scanned(module, x):
    lifted = nn.scan(lambda module, x, _: (module(x), None), variable_broadcast="params", split_rngs={"params": False})
    return lifted(module, x, jnp.zeros(1))[0]


# By the name of a transform: the class of a block, and the function that calls the block.
LIFTS: dict[str, tuple[Any, Any]] = {
    "jit": (nn.jit(Block), call),
    "jit of a function": (Block, lambda module, x: nn.jit(call)(module, x)),
    "jit of a function of the module": (Block, nn.jit(call)),
    "remat": (nn.remat(Block), call),
    "remat of jit": (nn.remat(nn.jit(Block)), call),
    "scan": (Block, scanned),
    "vmap": (Block, over_samples),
    "cond": (Block, conditional),
    "custom_vjp": (Block, with_gradient),
}


class Blocks(nn.Module):
    """Two equal blocks, of which one may be chosen."""

    lift: str | None = None

    @nn.compact
    def __call__(self, x):
        block, run = LIFTS[self.lift] if self.lift else (Block, call)
        x = nn.Conv(8, (3, 3))(x)
        for i in range(2):
            x = run(block(name=f"block_{i}"), x)
        return x.mean((1, 2))


class Whole(nn.Module):
    """The transform is around the whole network."""

    def setup(self):
        self.conv, self.blocks = nn.Conv(8, (3, 3)), [Block(), Block()]

    def __call__(self, x):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((1, 2))


SITES = {
    Blocks: ["block_0/GroupNorm_0", "block_1/GroupNorm_0"],
    Whole: ["blocks_0/GroupNorm_0", "blocks_1/GroupNorm_0"],
}
AT_THE_ROOT = {
    "jit": nn.jit,
    "remat": nn.remat,
    "vmap": partial(
        nn.vmap, in_axes=None, out_axes=None, axis_size=1, variable_axes={"params": None}, split_rngs={"params": False}
    ),
}


def networks(name, where):
    """Return the network under a transform, not yet called, and the same without the transform."""
    if where == "blocks":
        return Blocks(name), Blocks()
    return AT_THE_ROOT[name](Whole)(), Whole()


@cache
def expected(cls, chosen):
    """Return variables with kernels off the identity, and the outputs without a transform: with gates, and without."""
    plain = cls()
    variables = trained(plain, X)
    with_eca, more = insert_eca(plain, variables, SITES[cls][:chosen], example_inputs=X, verify=False)
    more = randomised(with_eca, more)
    gated, before = with_eca.apply(more, X), plain.apply(more, X)
    assert np.abs(gated - before).max() > 1e-2
    return variables, more, gated, before


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


CASES = [(name, "blocks", first) for name in LIFTS for first in (True, False)]
CASES += [(name, "root", first) for name in AT_THE_ROOT for first in (True, False)]
FAST = [("jit", "blocks", True)]  # the others are slow


@pytest.mark.parametrize(
    ("name", "where", "plain_first"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST)) for case in CASES],
)
def test_both_orders_planned_twice(name, where, plain_first):
    module, plain = networks(name, where)
    variables, more, gated, before = expected(type(plain), 2)
    if plain_first:
        close(module.apply(more, X), before)
    plans = [plan_eca(module, variables, example_inputs=X) for _ in range(2)]
    assert [plan.paths for plan in plans] == [tuple(SITES[type(plain)])] * 2
    assert [[entry.calls for entry in plan.entries] for plan in plans] == [[1, 1]] * 2
    with_eca, new = insert_eca(module, variables, plan=plans[0], example_inputs=X)
    assert jax.tree.structure(new) == jax.tree.structure(more)
    for _ in range(2):
        close(with_eca.apply(more, X), gated)
        close(module.apply(more, X), before)
        close(jax.jit(with_eca.apply)(more, X), gated)
    assert remove_eca(with_eca, new)[0] == module


class EitherOr(nn.Module):
    @nn.compact
    def __call__(self, x):
        first, second = Block(name="first"), Block(name="second")
        if self.is_initializing():
            return second(first(x))
        return nn.cond(x.sum() > 0, lambda _, x: first(x), lambda _, x: second(x), self, x)


@pytest.mark.slow
def test_both_branches_of_a_cond():
    """One run takes one branch: `verify` does not ask for a call of the other one."""
    x = image(2, 6, 5, 8)
    variables = trained(EitherOr(), x)
    with_eca, more = insert_eca(EitherOr(), variables, example_inputs=x)
    more = randomised(with_eca, more)
    for sign in (1, -1):
        signed = sign * jnp.abs(x)
        assert np.abs(with_eca.apply(more, signed) - EitherOr().apply(variables, signed)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "jit of a function of the module"])
def test_one_of_two_equal_blocks(name):
    """A trace of the gated block does not serve for the other one: in `init`, with and without the other's kernel."""
    module, _ = networks(name, "blocks")
    variables, more, gated, _ = expected(Blocks, 1)
    with_eca, new = insert_eca(module, variables, SITES[Blocks][:1], example_inputs=X, verify=False)
    assert set(flat(with_eca.init(KEY, X))) == set(flat(new))
    close(with_eca.apply(more, X), gated)
    both, longer = insert_eca(module, variables, example_inputs=X, verify=False)
    longer = randomised(both, longer)
    fewer, kept = remove_eca(both, longer, include=SITES[Blocks][1:])
    close(fewer.apply(longer, X), fewer.apply(kept, X))  # the removed kernel is still in `longer`
    assert np.abs(fewer.apply(kept, X) - both.apply(longer, X)).max() > 1e-3


@pytest.mark.slow
def test_a_bound_network():
    """A block that is called by itself is not gated, and does not leave an ungated trace for the network."""
    module, _ = networks("jit", "root")
    variables, more, gated, _ = expected(Whole, 2)
    with_eca, _ = insert_eca(module, variables, example_inputs=X, verify=False)
    bound = with_eca.bind(more)
    bound.conv(X)
    close(bound(X), gated)


class Bound(nn.Module):
    def setup(self):
        self.block = nn.jit(Block)()

    def __call__(self, x):
        return self.block(x)


def test_a_block_of_a_bound_network():
    x = image(2, 6, 5, 8)
    variables = trained(Bound(), x)
    with_eca, more = insert_eca(Bound(), variables, example_inputs=x, verify=False)
    more = randomised(with_eca, more)
    bound = with_eca.bind(more)
    alone = bound.block(x)
    close(alone, Bound().apply(variables, x))
    assert np.abs(bound(x) - alone).max() > 1e-3


class Held(nn.Module):
    """A network with a field, whose scope exists before any method runs, lifted by a function."""

    block: nn.Module

    def __call__(self, x):
        return over_samples(self.block, x)


@pytest.mark.slow
def test_a_module_in_a_field():
    x = image(2, 6, 5, 8)
    held = Held(Block())
    variables = trained(held, x)
    with_eca, more = insert_eca(held, variables, example_inputs=x)
    more = randomised(with_eca, more)
    plain = Held(Block()).bind(more)
    assert np.abs(with_eca.apply(more, x) - held.apply(more, x)).max() > 1e-3
    bound = with_eca.bind(more)
    close(bound(x), with_eca.apply(more, x))
    close(plain(x), held.apply(variables, x))


class Normalised(nn.Module):
    """Its second convolution has normalised weights."""

    @nn.compact
    def __call__(self, x):
        return x + nn.WeightNorm(nn.Conv(8, (3, 3), name="inner"), name="wn")(nn.relu(nn.Conv(8, (3, 3))(x)))


def test_mapped_variables():
    """The kernel stands behind the module that maps the variables, never among those."""
    x = image(2, 6, 5, 8)
    variables = trained(Normalised(), x)
    plan = plan_eca(Normalised(), variables, example_inputs=x)
    assert plan.paths == ("wn",)
    with_eca, more = insert_eca(Normalised(), variables, plan=plan, example_inputs=x)
    assert np.abs(with_eca.apply(randomised(with_eca, more), x) - with_eca.apply(more, x)).max() > 1e-3
    convs = plan_eca(Normalised(), variables, "conv", example_inputs=x)
    assert convs.paths == ("Conv_0",)
    assert "inside nn.map_variables" in convs.skipped[0].reason


def test_a_network_that_is_mapped_as_a_whole():
    mapped = nn.map_variables(Whole, "params", lambda params: params)
    with pytest.raises(UnsupportedModelError, match=r"must not be lifted by nn\.map_variables as a whole"):
        plan_eca(mapped(), trained(Whole(), X), example_inputs=X)


def test_a_control_without_a_residual():
    with pytest.raises(NoSiteError, match="must have a site for where='residual'"):
        plan_eca(nn.jit(nn.Conv)(8, (3, 3)), trained(nn.Conv(8, (3, 3)), X), example_inputs=X)
