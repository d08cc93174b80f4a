"""Plans of linen networks on other networks, verification, failures and bad input."""

import copy

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from eca_multi.flax import linen as own
from eca_multi.flax.linen import insert_eca, installed_eca, plan_eca
from eca_multi.flax.linen.surgery import _wrap
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError, UnsupportedModelError, VerifyError
from eca_multi.surgery.plan import ECAPlan
from tests.support.networks_linen import (
    NETWORKS,
    Classifier,
    ResNet,
    SetupNet,
    equal,
    flat,
    gated,
    image,
    network,
    trained,
)

# --- plans ---------------------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing():
    module, variables, x = network("resnet")
    before, state = flat(variables), copy.deepcopy(module)
    plan_eca(module, variables, example_inputs=(x, True))
    after = flat(variables)
    assert list(after) == list(before)
    assert all(after[path] is before[path] for path in before)
    assert module == state


def test_a_plan_is_replayed_on_a_fresh_network(tmp_path):
    module, variables, x = network("resnet")
    plan = plan_eca(module, variables, example_inputs=x, exclude="layer1.*", kernel_size=5)
    plan.save(tmp_path / "plan.json")
    fresh = trained(ResNet(), x, seed=9)
    with_eca, more = insert_eca(
        ResNet(), fresh, plan=ECAPlan.load(tmp_path / "plan.json"), example_inputs=x, verify=False
    )
    assert installed_eca(with_eca).entries == plan.entries
    assert {k.shape for k in jax.tree.leaves(own.eca_parameters(with_eca, more))} == {(5, 1, 1)}
    again, _ = insert_eca(with_eca, more, plan=plan, example_inputs=x)
    assert again is with_eca


@pytest.mark.slow
def test_a_plan_of_another_network():
    module, variables, x = network("resnet")
    wide = ResNet(width=12)
    plan = plan_eca(wide, trained(wide, x), example_inputs=x)
    with pytest.raises(PlanMismatchError, match="3 differences: layer1_0/BatchNorm_1: has 8 channels, the plan's 12"):
        insert_eca(module, variables, plan=plan, example_inputs=x)
    other = plan_eca(*network("setup")[:2], example_inputs=x)
    with pytest.raises(PlanMismatchError, match="3 differences: blocks_0/bn2: is not there; blocks_1/bn2: is not"):
        insert_eca(module, variables, plan=other, example_inputs=x)
    squeeze = plan_eca(*network("mobilenet-se")[:2], "se", example_inputs=x)
    with pytest.raises(PlanMismatchError, match="block_0/se: is not there"):
        insert_eca(*network("mobilenet")[:2], plan=squeeze, example_inputs=x)


def test_variables_of_another_module_are_refused():
    module, variables, x = network("resnet")
    replicated = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), variables)  # as jax.pmap takes them
    for wrong in (replicated, {"params": {"other": variables["params"]}}):
        with pytest.raises(PlanMismatchError, match=r"variables must be those of the module. Received: .*unreplicate"):
            plan_eca(module, wrong, example_inputs=x)


def test_a_replacement_is_replayed():
    module, variables, x = network("mobilenet-se")
    plan = plan_eca(module, variables, "se", example_inputs=x)
    assert insert_eca(module, variables, plan=plan, example_inputs=x, verify=False)[0] == gated("mobilenet-se", "se")[0]


@pytest.mark.parametrize(("name", "where"), [("resnet", "residual"), ("lifted", "residual"), ("mobilenet-se", "se")])
def test_a_plan_from_keys(name, where):
    module, variables, x = network(name)
    with_eca, more, _ = gated(name, where)
    plan = own.infer_plan(module, more, example_inputs=x)
    made = plan_eca(module, variables, where, example_inputs=x)
    assert plan.paths == made.paths
    assert plan == made == installed_eca(with_eca)
    assert [(e.kernel_size, e.channels, e.action) for e in plan.entries] == [
        (e.kernel_size, e.channels, e.action) for e in made.entries
    ]
    again, fresh = insert_eca(module, variables, plan=plan, example_inputs=x, verify=False)
    assert jax.tree.structure(fresh) == jax.tree.structure(more)
    assert jax.eval_shape(again.apply, more, x) == jax.eval_shape(with_eca.apply, more, x)


def test_a_plan_from_keys_notes_stacked_kernels():
    module, _, x = network("lifted")
    plan = own.infer_plan(module, gated("lifted")[1], example_inputs=x)
    assert [entry.notes for entry in plan.entries] == [(), ("stacked 3: a kernel for each",), ()]
    assert [entry.parameters for entry in plan.entries] == [3, 9, 3]


def test_no_plan_from_other_keys():
    module, variables, x = network("resnet")
    with pytest.raises(NoSiteError, match=r"must have kernels of inserted ECAs \('<site>/eca/kernel'\)"):
        own.infer_plan(module, variables, example_inputs=x)
    _, more, _ = gated("resnet")
    with pytest.raises(
        PlanMismatchError, match=r"44 differences: blocks_0/bn1/bias is missing; .*conv_init/kernel is unexpected; "
    ):
        own.infer_plan(SetupNet(), more, example_inputs=x)


# --- checks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verification_counts_and_compares(monkeypatch):
    module, variables, x = network("setup")
    insert_eca(module, variables, example_inputs=x, verify=True)
    layer = _wrap.Site.layer
    monkeypatch.setattr(_wrap.Site, "layer", lambda site, scope: lambda y: layer(site, scope)(y) * 1.01)
    with pytest.raises(VerifyError, match="outputs differ from those before"):
        insert_eca(module, variables, example_inputs=x)
    made = []

    def forgetful(site, scope):
        made.append(site)
        return layer(site, scope) if len(made) <= 7 else lambda y: y  # the second call of the last in the second run

    monkeypatch.setattr(_wrap.Site, "layer", forgetful)
    with pytest.raises(VerifyError, match=r"Received: twice/bn2: base called 2 times, its ECA 1\."):
        insert_eca(module, variables, example_inputs=x)
    made.clear()
    insert_eca(module, variables, example_inputs=x, verify=False)


def test_a_failure_leaves_everything(monkeypatch):
    module, variables, x = network("setup")
    before, paths = list(flat(variables)), []

    def layer(site, scope):
        paths.append(site.entry.path)
        if len(paths) == 2:
            raise RuntimeError("at the second site")
        return lambda y: y

    monkeypatch.setattr(_wrap.Site, "layer", layer)
    with pytest.raises(RuntimeError, match="at the second site"):
        insert_eca(module, variables, example_inputs=x)
    assert list(flat(variables)) == before
    assert module == SetupNet()
    monkeypatch.undo()
    assert equal(module.apply(variables, x), gated("setup")[0].apply(gated("setup")[1], x))


def test_without_kernels_the_error_says_so():
    _, old, x = network("resnet")
    with_eca, _, _ = gated("resnet")
    for call in (with_eca.apply, jax.jit(with_eca.apply)):
        with pytest.raises(
            ValueError,
            match=r"Received: none at layer1_0/BatchNorm_1/eca/kernel, .*load_base_state",
        ):
            call(old, x)


def bound():
    module, variables, _ = network("setup")
    return module.bind(variables)


SETUP, TRAINED, X = NETWORKS["setup"][0], network("setup")[1], NETWORKS["setup"][1]
BAD = {  # arguments, options, error, message
    "no module": ((object(), TRAINED), {}, TypeError, "module must be a flax.linen.Module. Received: object"),
    "a class": ((SetupNet, TRAINED), {}, TypeError, r"the class SetupNet. Make an instance: SetupNet\("),
    "no variables": ((SETUP, None), {}, TypeError, "variables must be what module.init returned. Received: NoneType"),
    "parameters alone": ((SETUP, TRAINED["params"]), {}, ValueError, "variables must hold 'params'"),
    "no inputs": ((SETUP, TRAINED), {"example_inputs": None}, TypeError, "example_inputs must be one array"),
    "no array": ((SETUP, TRAINED), {"example_inputs": (3,)}, TypeError, "Received: tuple without an array"),
    "slot": ((SETUP, TRAINED, "slot"), {}, ValueError, r"where='slot'\. It fills the empty attention slots of timm's"),
    "no such where": ((SETUP, TRAINED, "residuals"), {}, ValueError, "Did you mean 'residual'?"),
    "no such path": ((SETUP, TRAINED, ["twice/bn3"]), {}, NoSiteError, "Near: twice/bn2"),
    "the root": ((SETUP, TRAINED, [""]), {}, NoSiteError, "where must match a site of the model. Received: ''"),
    "include": ((SETUP, TRAINED), {"include": "layer.*"}, NoSiteError, "include must match a site"),
    "exclude": ((SETUP, TRAINED), {"exclude": ["bn9"]}, NoSiteError, "exclude must match a site"),
    "no se": ((SETUP, TRAINED, "se"), {}, NoSiteError, r"for where='se'. .*where='residual' \(3 sites\)"),
    "rank 2": ((SETUP, TRAINED, ["head"]), {}, NoSiteError, "head: its output has rank 2"),
    "gate": ((SETUP, TRAINED), {"gate": "sigmoid"}, ValueError, "gate must be '2sigmoid' when init='identity'"),
}


@pytest.mark.parametrize("function", [plan_eca, insert_eca])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input(bad, function):
    args, options, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        function(*args, **{"example_inputs": X, **options})


def test_bound_and_traced():
    module, variables, x = network("setup")
    with pytest.raises(UnsupportedModelError, match=r"module must be unbound\. Received: a bound SetupNet"):
        plan_eca(bound(), variables, example_inputs=x)
    for traced in (jax.jit, jax.grad):
        with pytest.raises(UnsupportedModelError, match="before JAX traces the network"):
            traced(lambda v: insert_eca(module, v, example_inputs=x)[1]["params"]["head"]["bias"].sum())(variables)
    with pytest.raises(UnsupportedModelError, match=r"inside jax\.jit"):
        jax.jit(lambda: insert_eca(module, variables, example_inputs=x)[1])()
    assert equal(module.apply(variables, x), gated("setup")[0].apply(gated("setup")[1], x))


def test_options_that_do_not_go_together():
    module, variables, x = network("setup")
    plan = plan_eca(module, variables, example_inputs=x)
    with pytest.raises(ValueError, match=r"plan must stand alone: .* Received: plan and min_channels"):
        insert_eca(module, variables, plan=plan, min_channels=3, example_inputs=x)
    with pytest.raises(TypeError, match=r"plan must be an ECAPlan\. Received: str"):
        insert_eca(module, variables, plan=plan.to_json(), example_inputs=x)
    with pytest.raises(NoSiteError, match="Classifier must have a site for where='residual'"):
        plan_eca(Classifier(), trained(Classifier(), image(2, 8, 8)), example_inputs=image(2, 8, 8))


def test_a_conv_alone_is_no_network():
    conv, x = nn.Conv(4, (3, 3)), image(2, 6, 6, 3)
    with pytest.raises(NoSiteError, match=r"Conv must have a site for where='conv'\. Received: no candidate"):
        plan_eca(conv, trained(conv, x), "conv", example_inputs=x)


def test_kernels_that_the_module_does_not_call():
    module, _, x = network("setup")
    _, more, _ = gated("setup")
    with pytest.raises(NoSiteError, match="the variables hold 'eca' there already"):
        plan_eca(module, more, example_inputs=x)
