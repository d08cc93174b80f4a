"""ECA in nnx networks: whatever fails, the network is as it was, and the message says what to do."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from eca_multi.flax.nnx import insert_eca, installed_eca, plan_eca
from eca_multi.flax.nnx.surgery import insert
from eca_multi.surgery.errors import (
    ChannelInferenceError,
    NoSiteError,
    PlanMismatchError,
    UnsupportedModelError,
    VerifyError,
)
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv, Linear, images
from tests.support.surgery_nnx import X, everything, run, small

# --- failures leave the network as it was ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_an_exception_at_a_site_puts_all_back(monkeypatch, number):
    model = small()
    before = everything(model)
    wrap, calls = insert.wrap, []

    def failing(module, layer):
        calls.append(module)
        if len(calls) > number:
            vars(module)["half"] = 1
            raise RuntimeError("injected")
        wrap(module, layer)

    monkeypatch.setattr(insert, "wrap", failing)
    with pytest.raises(RuntimeError, match="injected"):
        insert_eca(model, example_inputs=X, verify=False)
    assert everything(model) == before


class Impatient(nnx.Module):
    """It looks at its site's class, so that a gate changes what it does."""

    def __init__(self, rngs):
        self.conv = Conv(3, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.conv(x) + (1 if hasattr(self.conv, "eca") else 0)


@pytest.mark.slow
def test_a_failed_proof_puts_the_model_back():
    model = Impatient(nnx.Rngs(0))
    before = everything(model)
    with pytest.raises(VerifyError, match="outputs differ from those before"):
        insert_eca(model, "conv", example_inputs=X)
    assert everything(model) == before


class Bypass(nnx.Module):
    """It computes with its site's kernel and does not call it."""

    def __init__(self, rngs):
        self.conv = Conv(3, 3, (3, 3), rngs=rngs)

    def __call__(self, x):
        return x * self.conv.kernel.sum()


def test_a_site_that_is_never_called():
    model = Bypass(nnx.Rngs(0))
    with pytest.raises(NoSiteError, match="conv: not called on these inputs"):
        insert_eca(model, "conv", example_inputs=X)
    insert_eca(model, "conv")
    plan = installed_eca(model)
    fresh = Bypass(nnx.Rngs(0))
    with pytest.raises(PlanMismatchError, match="conv: not called on these inputs"):
        insert_eca(fresh, plan=plan, example_inputs=X)


@pytest.mark.slow
def test_a_model_that_is_traced_is_refused_and_stays():
    model = small()
    before = everything(model)

    def insert(model, x):
        insert_eca(model, "norm")
        return model(x).sum()

    def closed_over(x):
        insert_eca(model, "norm")
        return x

    transformed = [
        lambda: nnx.jit(insert)(model, X),
        lambda: nnx.grad(insert)(model, X),
        lambda: jax.jit(closed_over)(X),
        lambda: jax.grad(closed_over)(1.0),
        lambda: jax.vmap(closed_over)(X),
        lambda: jax.jit(lambda x: plan_eca(model, "norm") and x)(X),
    ]
    for function in transformed:
        with pytest.raises(UnsupportedModelError, match="model must not be traced while it is changed"):
            function()
        assert everything(model) == before
    assert run(insert_eca(model, example_inputs=X, verify=False)).shape == (2, 10)


def test_arrays_with_an_axis_for_devices_are_named():
    """As jax.pmap takes them; inputs of a wrong rank (the control) are told by JAX's own words."""
    model = small()
    with pytest.raises(UnsupportedModelError, match=r"Pass what the model is called with"):
        plan_eca(model, example_inputs=X[0, 0])
    arrays = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda array: jnp.stack([array, array]), arrays))
    with pytest.raises(UnsupportedModelError, match="All its layers hold 2 copies of their arrays, as jax"):
        plan_eca(model, example_inputs=X)


# --- bad input -------------------------------------------------------------------------------------------------------


def _linen():
    from flax import linen

    return linen.Conv(3, (3, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3,), {}, TypeError, r"model must be a flax.nnx.Module. Received: int"),
        ((networks.Basic,), {}, TypeError, r"Received: the class Basic. Make an instance"),
        ((_linen(),), {}, TypeError, r"Received: Conv. For a linen module use eca_multi.flax.linen"),
        ((lambda: nnx.graphdef(small()),), {}, TypeError, r"Received: GraphDef. Put it together first: nnx.merge"),
        ((small,), {}, UnsupportedModelError, r"must come with example_inputs for where='residual'.*no graph before"),
        ((small, "block"), {}, UnsupportedModelError, r"must come with example_inputs"),
        ((small, "se"), {}, UnsupportedModelError, r"must come with example_inputs"),
        ((small,), {"example_inputs": 3}, TypeError, r"example_inputs must be one array"),
        ((small,), {"example_inputs": images((2, 16, 16, 5))}, UnsupportedModelError, r"model must run on example_in"),
        ((small, ["layers.0.0.bn9"]), {}, NoSiteError, r"where must match a site.*Near: layers.0.0.bn2"),
        ((small, ["layers.0.0"]), {}, ChannelInferenceError, r"channels at 'layers.0.0' .Basic. must be known"),
        ((small, ["layers.0.0"]), {"kernel_size": 3}, ChannelInferenceError, r"must be known to build its ECA"),
        ((lambda: Conv(3, 3, (3, 3), rngs=nnx.Rngs(0)), "conv"), {}, NoSiteError, r"it is the model itself"),
        ((lambda: nnx.Sequential(Linear(2, 2, rngs=nnx.Rngs(0))), "conv"), {}, NoSiteError, r"no candidate"),
    ],
)
def test_bad_input(arguments, options, error, message):
    model, *rest = arguments
    if callable(model) and not isinstance(model, nnx.Module | type) and not hasattr(model, "scope"):
        model = model()
    before = everything(model) if isinstance(model, nnx.Module) else None
    for function in (plan_eca, insert_eca):
        with pytest.raises(error, match=message):
            function(model, *rest, **options)
    assert before is None or everything(model) == before


def test_a_site_of_rank_2():
    with pytest.raises(NoSiteError, match=r"fc: its output has rank 2, which has no spatial axes"):
        plan_eca(small(), ["fc"], example_inputs=X)


def test_offers_name_what_else_there_is():
    model = nnx.Sequential(Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), nnx.relu)
    with pytest.raises(NoSiteError, match=r"where='residual'. Received: no candidate.*where='conv' \(1 sites\)"):
        plan_eca(model, example_inputs=X)
