"""What surgery does in every framework: one list of behaviours, one test body for each, over all four."""

import numpy as np
import pytest

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
    assert plan.notes == ("read from the keys of a state; the gate is not in them",)
    assert twin.plan(plain).paths == plan.paths == ("conv",)
    assert "read from the keys" not in str(twin.plan(twin.net()))  # the control: a plan of a choice
