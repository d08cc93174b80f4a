"""Plans of nnx networks that were saved, inferred or read back, and the exact undo."""

import pytest
from flax import nnx

from eca_multi.flax.nnx import (
    ECA,
    infer_plan,
    insert_eca,
    installed_eca,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError
from eca_multi.surgery.plan import ECAPlan
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv
from tests.support.surgery_nnx import X, build, everything, small


def test_a_saved_plan_makes_the_same_network(tmp_path):
    model = small()
    plan_eca(model, example_inputs=X).save(tmp_path / "plan.json")
    insert_eca(model, example_inputs=X, verify=False)
    fresh = insert_eca(small(), plan=ECAPlan.load(tmp_path / "plan.json"))
    assert nnx.graphdef(fresh) == nnx.graphdef(model)
    assert insert_eca(fresh, plan=ECAPlan.load(tmp_path / "plan.json")) is fresh


def test_installed_is_what_was_planned():
    model = small()
    plan = plan_eca(model, example_inputs=X)
    assert installed_eca(model).entries == ()
    insert_eca(model, plan=plan)
    found = installed_eca(model)
    for name in ("path", "module_type", "channels", "layout", "kernel_size", "parameters", "action", "keeps_output"):
        assert [getattr(e, name) for e in found.entries] == [getattr(e, name) for e in plan.entries]
    assert found.model_parameters == plan.model_parameters
    assert everything(insert_eca(small(), plan=found)) == everything(model)


@pytest.mark.parametrize("where", ["residual", "se"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_checkpoints_keys_tell_the_plan(where, as_text):
    model, x = build("inverted-residual")
    insert_eca(model, where, example_inputs=x, verify=False)
    state = nnx.to_pure_dict(nnx.state(model))
    if as_text:
        state["blocks"] = {str(number): block for number, block in state["blocks"].items()}
    fresh, _ = build("inverted-residual")
    plan = infer_plan(fresh, state)
    assert (
        infer_plan(fresh, state, example_inputs=x) == plan_eca(fresh, where, example_inputs=x) == installed_eca(model)
    )
    insert_eca(fresh, plan=plan, example_inputs=x, verify=False)
    assert nnx.graphdef(fresh) == nnx.graphdef(model)


def test_a_plan_of_another_network_lists_all_differences():
    plan = plan_eca(small(), example_inputs=X)
    other = small(width=4)
    before = everything(other)
    with pytest.raises(
        PlanMismatchError, match=r"2 differences: layers.0.0.bn2: has 4 channels.*layers.1.0.bn2: has 8"
    ):
        insert_eca(other, plan=plan)
    assert everything(other) == before
    with pytest.raises(PlanMismatchError, match=r"layers.0.0.bn2: is not there"):
        insert_eca(networks.PreActivation(rngs=nnx.Rngs(0)), plan=plan)


def test_a_checkpoint_of_another_network():
    state = nnx.to_pure_dict(nnx.state(insert_eca(small(), example_inputs=X, verify=False)))
    with pytest.raises(PlanMismatchError, match=r"layers.0.0.bn2: is not there"):
        infer_plan(networks.PreActivation(rngs=nnx.Rngs(0)), state)
    with pytest.raises(NoSiteError, match=r"state must have kernels of inserted ECAs"):
        infer_plan(small(), nnx.to_pure_dict(nnx.state(small())))


def test_a_part_is_taken_out():
    model = insert_eca(small(), example_inputs=X, verify=False)
    remove_eca(model, include=r"layers\.0.*")
    assert installed_eca(model).paths == ("layers.1.0.bn2",)
    with pytest.raises(NoSiteError, match=r"include must match a site.*Near: layers.1.0.bn2"):
        remove_eca(model, include=r"layers\.0.*")
    remove_eca(model)
    with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a ResNet without it"):
        remove_eca(model)


def test_an_eca_of_the_networks_author_stays():
    model = nnx.Sequential(Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), ECA(8, rngs=nnx.Rngs(0)))
    insert_eca(model, "conv")
    assert installed_eca(model).paths == ("layers.0",)
    remove_eca(model)
    assert isinstance(model.layers[1], ECA)
