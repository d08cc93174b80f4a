"""What surgery does in every framework: one list of behaviours, one test body for each, over all four."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import torch

from eca_multi.surgery.errors import PlanMismatchError
from tests.support.surgery_twins import OWN, TWINS

KERAS = [pytest.mark.keras, pytest.mark.slow_on("jax")]
each = pytest.mark.parametrize("twin", [pytest.param(t, id=t.name, marks=KERAS * (t.name == "keras")) for t in TWINS])


@each
def test_loading_the_base_resets_inserted_ecas_and_keeps_the_authors_own(twin):
    """The author's own ECA is a part of the base, whatever its gate."""
    plain = twin.net()
    state = twin.base_state(plain)
    net = twin.set_inserted(twin.insert(plain), [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(twin.kernels(net)["inserted"], [1.0, 2.0, 3.0])
    kernels = twin.kernels(twin.load_base_state(net, state))
    np.testing.assert_array_equal(kernels["own"], OWN)
    np.testing.assert_array_equal(kernels["inserted"], np.zeros(3))


@each
def test_a_plan_for_other_channels_is_refused(twin):
    plan = twin.plan(twin.net(8))
    assert [entry.channels for entry in plan.entries] == [8]
    with pytest.raises(PlanMismatchError, match="conv: has 16 channels, the plan's 8"):
        twin.insert(twin.net(16), plan=plan)
    twin.insert(twin.net(8), plan=plan)  # the control: the plan fits its own network


@each
def test_a_plan_read_from_keys_says_that_it_is(twin):
    net, plain = twin.insert(twin.net()), twin.net()
    state = net[1] if twin.name == "linen" else twin.package.eca_state(net)
    more = {"example_inputs": twin.x()} if twin.name == "linen" else {}
    plan = twin.package.infer_plan(twin.arguments(plain)[0], state, **more)
    assert plan.notes == ("read from the keys of a state; the gate and the axes are not in them",)
    assert twin.plan(plain).paths == plan.paths == ("conv",)
    assert "read from the keys" not in str(twin.plan(twin.net()))  # the control: a plan of a choice


@each
def test_a_plan_that_is_read_back_equals_the_plan(twin):
    plain = twin.net()
    plan = twin.package.plan_eca(*twin.arguments(plain), "conv", example_inputs=twin.x())
    net = twin.insert(twin.net(), plan=plan)
    assert twin.package.installed_eca(twin.arguments(net)[0]) == plan
    state = net[1] if twin.name == "linen" else twin.package.eca_state(net)
    model = twin.arguments(plain)[0]
    assert twin.package.infer_plan(model, state, example_inputs=twin.x()) == plan
    assert plan.where == "conv"  # and differs in how it was found
    wider = replace(plan.entries[-1], kernel_size=5, parameters=5)
    other = twin.insert(twin.net(), plan=replace(plan, entries=(*plan.entries[:-1], wider)))
    assert twin.package.installed_eca(twin.arguments(other)[0]) != plan


@each
def test_a_plan_of_another_version_of_the_package_is_carried_out(twin):
    """The schema decides, not the package's number."""
    plan = replace(twin.plan(twin.net()), package="0.0.1")
    assert twin.package.installed_eca(twin.arguments(twin.insert(twin.net(), plan=plan))[0]) == plan


def renamed(twin, net):
    """The state of a network whose modules all have other names."""
    state = {**twin.base_state(net)}
    if twin.name == "linen":
        return {"params": {f"other{i}": part for i, part in enumerate([*state["params"].values()] * 2)}}
    return {f"other{i}{'/' * (twin.name == 'keras')}": part for i, part in enumerate([*state.values()] * 2)}


@each
def test_a_state_of_another_network_is_refused_in_one_short_line(twin):
    net = twin.insert(twin.net())
    before = twin.kernels(net)
    pattern = (
        r"^state must be the state of the plain network\. Received: \d+ names, of which the model has none .*other"
    )
    with pytest.raises(ValueError, match=pattern) as caught:
        twin.load_base_state(net, renamed(twin, net))
    assert len(str(caught.value)) < 400
    np.testing.assert_array_equal(twin.kernels(net)["inserted"], before["inserted"])
    twin.load_base_state(net, twin.base_state(twin.net()))  # the control


ROOTS = {
    "torch": (lambda net: torch.nn.DataParallel(net), "a DataParallel. Pass model.module, and wrap the result"),
    "keras": (lambda net: partial(net), "partial. Pass the model itself"),
    "nnx": (lambda net: jax.jit(lambda x: net(x)), "Pass the module itself, before jax.jit, jax.pmap"),
    "linen": (lambda net: jax.jit(net.apply), "Pass the module itself, before jax.jit, jax.pmap"),
}


@each
def test_a_root_that_a_transformation_wraps_is_refused(twin):
    wrap, remedy = ROOTS[twin.name]
    model, *rest = twin.arguments(twin.net())
    with pytest.raises(TypeError, match=rf"(model|module) must be .*Received: .*{remedy}"):
        twin.package.insert_eca(wrap(model), *rest, "conv", example_inputs=twin.x())
