"""ECA into linen networks that exist: where it goes, that nothing else changes, and that all of it can be undone."""

import copy
import pickle
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from flax import linen as nn
from flax.traverse_util import flatten_dict
from networks_linen import (
    Bottleneck,
    Carried,
    Classifier,
    ConvNeXt,
    Lifted,
    MobileNet,
    PreActivation,
    ResidualN,
    ResNet,
    SetupNet,
    image,
    trained,
)

from eca_multi.flax import linen as own
from eca_multi.flax.linen import ECA, insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.flax.linen.surgery import _gated
from eca_multi.plan import (
    ECAPlan,
    NoSiteError,
    PlanMismatchError,
    UnsupportedModelError,
    VerifyError,
)

KEY = jax.random.key(0, impl="rbg")  # compiles fast
NETWORKS = {  # the network, its inputs
    "resnet": (ResNet(), image()),
    "bottleneck": (ResNet(Bottleneck), image()),
    "setup": (SetupNet(), image()),
    "mobilenet": (MobileNet(), image()),
    "mobilenet-se": (MobileNet(se=True), image()),
    "convnext": (ConvNeXt(), image(2, 32, 32, 3)),
    "pre-activation": (PreActivation(), image()),
    "1d": (ResidualN(1), image(2, 12, 3)),
    "3d": (ResidualN(3), image(2, 5, 4, 3, 2)),
    "lifted": (Lifted(), image(2, 8, 8, 3)),
}
COMPILED = [  # the default run leaves out what another one is like
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("bottleneck", "mobilenet-se"))) for name in NETWORKS
]
WITH_TRAIN = ("resnet", "bottleneck", "setup", "mobilenet", "mobilenet-se", "pre-activation")


@cache
def network(name):
    """A network, variables as after training, inputs."""
    module, x = NETWORKS[name]
    return module, trained(module, x), x


@cache
def gated(name, where="residual"):
    """The same with ECA; not verified, which tests do themselves."""
    module, variables, x = network(name)
    return *insert_eca(module, variables, where, example_inputs=x, verify=False), x


def flat(tree):
    return {"/".join(keys): leaf for keys, leaf in flatten_dict(core.unfreeze(tree)).items()}


def equal(a, b):
    """Whether two trees are the same, bit for bit."""
    same = jax.tree.map(lambda p, q: np.asarray(p).tobytes() == np.asarray(q).tobytes() and p.dtype == q.dtype, a, b)
    return all(jax.tree.leaves(same))


def randomised(module, variables, seed=3):
    """The variables with kernels that are not zero."""
    kernels = own.eca_state(module, variables)
    drawn = [jax.random.normal(jax.random.key(seed + i), k.shape) for i, k in enumerate(jax.tree.leaves(kernels))]
    return own.load_eca_state(module, variables, jax.tree.unflatten(jax.tree.structure(kernels), drawn))


# --- where it goes -----------------------------------------------------------------------------------------------

RESIDUAL = {
    "resnet": ["layer1_0/BatchNorm_1", "layer2_0/BatchNorm_1", "layer2_1/BatchNorm_1"],
    "bottleneck": ["layer1_0/BatchNorm_2", "layer2_0/BatchNorm_2", "layer2_1/BatchNorm_2"],
    "setup": ["blocks_0/bn2", "blocks_1/bn2", "twice/bn2"],
    "mobilenet": ["block_0/BatchNorm_2", "block_2/BatchNorm_2"],
    "mobilenet-se": ["block_0/BatchNorm_2", "block_2/BatchNorm_2"],
    "convnext": ["ConvNeXtBlock_0/Dense_0", "ConvNeXtBlock_1/Dense_0"],
    "pre-activation": ["conv0_b", "conv1_b"],
    "1d": ["norm0_b", "norm1_b"],
    "3d": ["norm0_b", "norm1_b"],
    "lifted": ["remat/GroupNorm_0", "scan/GroupNorm_0", "plain/GroupNorm_0"],
}
OTHERS = {
    ("mobilenet", "block"): [f"block_{i}/BatchNorm_2" for i in range(3)],
    ("lifted", "block"): ["remat/GroupNorm_0", "scan/GroupNorm_0", "plain/GroupNorm_0"],
    ("mobilenet-se", "se"): [f"block_{i}/se" for i in range(3)],
    ("setup", "conv_norm"): [
        *("stem", "blocks_0/bn1", "blocks_0/bn2", "blocks_1/bn1", "blocks_1/bn2", "twice/bn1", "twice/bn2"),
    ],
    ("pre-activation", "conv_norm"): ["norm0_a", "norm0_b", "conv0_b", "norm1_b", "conv1_b"],
    ("pre-activation", "conv"): ["Conv_0", "conv0_a", "conv0_b", "conv1_a", "conv1_b"],
    ("pre-activation", "norm"): ["norm0_a", "norm0_b", "norm1_a", "norm1_b"],
    ("convnext", "conv_norm"): [
        *("LayerNorm_0", "ConvNeXtBlock_0/LayerNorm_0", "Conv_1", "ConvNeXtBlock_1/LayerNorm_0"),
    ],
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_branches(name):
    module, variables, x = network(name)
    assert list(plan_eca(module, variables, example_inputs=x).paths) == RESIDUAL[name]


@pytest.mark.slow
def test_resnet_50():
    """All of it by shapes: the paper's 86 parameters."""
    net, x = ResNet(Bottleneck, (3, 4, 6, 3), 64), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(net.init, KEY, x)
    plan = plan_eca(net, variables, example_inputs=x)
    sizes = ((1, 3), (2, 4), (3, 6), (4, 3))
    assert list(plan.paths) == [f"layer{i}_{j}/BatchNorm_2" for i, size in sizes for j in range(size)]
    assert [entry.kernel_size for entry in plan.entries] == [5] * 13 + [7] * 3
    assert plan.parameters == 86
    with_eca, _ = insert_eca(net, variables, plan=plan, example_inputs=x)
    assert len(flat(jax.eval_shape(with_eca.init, KEY, x))) == len(flat(variables)) + 16


@pytest.mark.parametrize("name", WITH_TRAIN)
def test_the_mode_does_not_matter_to_the_sites(name):
    """In training a dropout stands between the norm and the add."""
    module, variables, x = network(name)
    assert list(plan_eca(module, variables, example_inputs=(x, True)).paths) == RESIDUAL[name]


@pytest.mark.parametrize(("name", "where"), OTHERS, ids=[f"{name}-{where}" for name, where in OTHERS])
def test_other_placements(name, where):
    module, variables, x = network(name)
    assert list(plan_eca(module, variables, where, example_inputs=x).paths) == OTHERS[name, where]


def test_paths_and_callables():
    module, variables, x = network("setup")
    listed = plan_eca(module, variables, ["twice/bn2", "stem"], example_inputs=x)
    called = plan_eca(module, variables, lambda path, one: isinstance(one, nn.Conv), example_inputs=x)
    assert (listed.where, listed.paths) == ("paths", ("stem", "twice/bn2"))
    assert (called.where, called.paths) == (
        "callable",
        ("stem", *(f"{block}/conv{i}" for block in ("blocks_0", "blocks_1", "twice") for i in (1, 2))),
    )


def test_what_the_plan_says():
    module, variables, x = network("lifted")
    plan = plan_eca(module, variables, example_inputs=x, overrides={"scan/.*": {"kernel_size": 5}})
    assert [entry.kernel_size for entry in plan.entries] == [3, 5, 3]
    assert [entry.calls for entry in plan.entries] == [1, 3, 1]  # three steps of the scan
    assert [entry.parameters for entry in plan.entries] == [3, 15, 3]
    assert plan.entries[1].notes == ("stacked 3: a kernel for each",)
    assert {entry.layout for entry in plan.entries} == {"channels_last"}
    assert {entry.channels for entry in plan.entries} == {8}
    assert plan.model_parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert ECAPlan.from_json(plan.to_json()) == plan


def test_a_shared_module_has_one_eca_and_two_calls():
    module, variables, x = network("setup")
    calls = {entry.path: entry.calls for entry in plan_eca(module, variables, example_inputs=x).entries}
    assert calls == {"blocks_0/bn2": 1, "blocks_1/bn2": 1, "twice/bn2": 2}


def test_notes():
    module, variables, x = network("convnext")
    notes = [e.notes for e in plan_eca(module, variables, example_inputs=x).entries]
    assert notes == [("a layer scale follows the gate",)] * 2
    module, variables, x = network("mobilenet-se")
    assert "depthwise" in str(plan_eca(module, variables, "conv_norm", example_inputs=x))
    assert "its 220 parameters are dropped" in str(plan_eca(module, variables, "se", example_inputs=x))
    assert "before a norm" in str(plan_eca(module, variables, "conv", example_inputs=x))


class Odd(nn.Module):
    """Modules that ECA cannot stand behind."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = ECA(name="own")(x)
        x = nn.Conv(4, (3,), name="rows")(x)  # two batch axes
        tokens = nn.LayerNorm(name="tokens")(x.reshape(len(x), -1, 4))
        first = nn.BatchNorm(True, axis=1, name="first")(jnp.moveaxis(x, -1, 1))
        pair = Carried(4, name="pair")(x)
        return nn.LayerNorm(name="flat")(tokens.mean(1)) + first.mean((2, 3)) + pair[0].mean((1, 2))


def test_reasons():
    module, x = Odd(), image(2, 6, 5, 3)
    variables = trained(module, x)
    plan = plan_eca(module, variables, lambda path, one: "/" not in path, example_inputs=x)
    assert plan.paths == ("conv", "first")
    assert plan.entries[1].layout == "channels_first"
    assert {one.path: one.reason for one in plan.skipped} == {
        "own": "already has ECA",
        "rows": "its output has rank 4, not 3 with one batch axis",
        "tokens": "its output has rank 3, which no convolution's has (tokens, or no batch axis)",
        "pair": "its output is not one array",
        "flat": "its output has rank 2, which has no spatial axes",
    }
    with_eca, more = insert_eca(module, variables, ["first"], example_inputs=x, verify=False)
    assert jax.eval_shape(with_eca.apply, more, x).shape == (2, 4)


# --- outputs stay, and can change ----------------------------------------------------------------------------------


@cache
def both(name, where="residual", train=False):
    """Outputs and changed collections before and after, operation by operation."""
    module, variables, x = network(name)
    with_eca, more, _ = gated(name, where)
    options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": KEY}} if train else {}
    with jax.disable_jit():
        return module.apply(variables, x, **options), with_eca.apply(more, x, **options)


@pytest.mark.parametrize("name", COMPILED)
def test_outputs_are_bit_equal(name):
    assert equal(*both(name))


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_outputs_and_statistics_are_bit_equal_in_training(name):
    before, after = both(name, train=True)
    assert set(flat(before[1])) == set(flat(after[1]))
    assert equal(before, after)


@pytest.mark.parametrize("where", ["conv", "conv_norm", "norm", "block"])
def test_other_placements_are_bit_equal(where):
    assert equal(*both("mobilenet", where))


@pytest.mark.parametrize("name", COMPILED)
def test_kernels_matter_and_get_gradients(name):
    """At the identity start each kernel has a gradient, and other kernels give other outputs."""
    with_eca, variables, x = gated(name)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(kernels):
        y = with_eca.apply(own.load_eca_state(with_eca, variables, kernels), x)
        return (jnp.sin(y) ** 2).sum(), y

    kernels = own.eca_state(with_eca, variables)
    grads, same = gradient(kernels)
    for path, grad in flat(grads).items():
        assert np.abs(grad).max() > 1e-7, path
    _, changed = gradient(own.eca_state(with_eca, randomised(with_eca, variables)))
    before = both(name)[0]
    scale = np.abs(before).max()
    assert np.abs(changed - before).max() > 0.01 * scale
    assert np.abs(same - before).max() < 1e-5 * scale  # XLA fuses differently


def test_an_se_block_is_replaced():
    module, variables, x = network("mobilenet-se")
    with_eca, more, _ = gated("mobilenet-se", "se")
    assert not plan_eca(module, variables, "se", example_inputs=x).keeps_output
    assert jax.tree.map(jnp.shape, more["params"]["block_0"]["se"]) == {"eca": {"kernel": (3, 1, 1)}}
    assert set(flat(jax.eval_shape(with_eca.init, KEY, x))) == set(flat(more))
    # The blocks are gone: the network is the one without SE, with identical gates.
    plain = MobileNet(se=False)
    assert set(flat(own.base_state(with_eca, more))) == set(flat(jax.eval_shape(plain.init, KEY, x)))
    assert equal(with_eca.apply(more, x), plain.apply(own.base_state(with_eca, more), x))
    with pytest.raises(UnsupportedModelError, match="Received: ECA in the place of block_0/se, block_1/se, block_2/se"):
        remove_eca(with_eca, more)


# --- variables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_old_paths_stay_and_kernels_come(name):
    _, old, _ = network(name)
    _, new, _ = gated(name)
    before, after = flat(old), flat(new)
    assert set(after) - set(before) == {f"params/{path}/eca/kernel" for path in RESIDUAL[name]}
    assert all(after[path] is before[path] for path in before)


@pytest.mark.parametrize("name", ["setup", pytest.param("lifted", marks=pytest.mark.slow)])
def test_init_makes_the_same_base(name):
    module, _, x = network(name)
    with_eca, variables, _ = gated(name)
    plain, fresh = (flat(m.init(KEY, x)) for m in (module, with_eca))
    assert {path: leaf.shape for path, leaf in fresh.items()} == {p: v.shape for p, v in flat(variables).items()}
    assert all(equal(fresh[path], plain[path]) for path in plain)
    assert not any(fresh[path].any() for path in set(fresh) - set(plain))


def test_kernels_in_a_scan_are_stacked():
    _, variables, _ = gated("lifted")
    kernels = {path: leaf.shape for path, leaf in flat(variables).items() if path.endswith("eca/kernel")}
    assert kernels == {
        "params/remat/GroupNorm_0/eca/kernel": (3, 1, 1),
        "params/scan/GroupNorm_0/eca/kernel": (3, 3, 1, 1),
        "params/plain/GroupNorm_0/eca/kernel": (3, 1, 1),
    }


def test_the_old_module_runs_on_the_new_variables():
    module, old, x = network("resnet")
    _, new, _ = gated("resnet")
    assert equal(module.apply(new, x), module.apply(old, x))


def test_kernels_have_the_sites_dtype():
    module, variables, x = network("setup")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    with_eca, more = insert_eca(module, half, example_inputs=x.astype(jnp.bfloat16), verify=False)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(own.eca_state(with_eca, more))} == {"bfloat16"}
    assert jax.eval_shape(with_eca.init, KEY, x)["params"]["twice"]["bn2"]["eca"]["kernel"].dtype == jnp.bfloat16


def test_frozen_variables_stay_frozen():
    module, variables, x = network("setup")
    frozen = core.freeze(variables)
    with_eca, more = insert_eca(module, frozen, example_inputs=x, verify=False)
    assert isinstance(more, core.FrozenDict)
    removed = remove_eca(with_eca, more)[1]
    assert isinstance(removed, core.FrozenDict)
    assert removed == frozen


def test_shapes_will_do():
    module, x = SetupNet(), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(module.init, KEY, x)
    with_eca, more = insert_eca(module, variables, example_inputs=x)
    assert flat(more)["params/twice/bn2/eca/kernel"] == jax.ShapeDtypeStruct((3, 1, 1), jnp.float32)
    assert jax.eval_shape(with_eca.apply, more, x).shape == (2, 10)
    with pytest.raises(UnsupportedModelError, match="verify=True must run the model"):
        insert_eca(module, variables, example_inputs=x, verify=True)


def test_boxes_of_sharding_stay():
    boxed = nn.with_partitioning(nn.initializers.ones, (None, None, None, "model"))
    net = nn.Sequential([nn.Conv(8, (3, 3), kernel_init=boxed), nn.GroupNorm(2)])
    variables = jax.jit(net.init)(KEY, image())
    with_eca, more = insert_eca(net, variables, "conv_norm", example_inputs=image(), verify=False)
    assert isinstance(more["params"]["layers_0"]["kernel"], nn.Partitioned)
    loaded = own.load_base_state(with_eca, more, nn.meta.unbox(variables))
    assert isinstance(loaded["params"]["layers_0"]["kernel"], nn.Partitioned)
    assert jax.tree.structure(loaded) == jax.tree.structure(more)


def test_a_uniform_start_follows_from_the_paths():
    module, variables, x = network("setup")
    options = {"example_inputs": x, "gate": "sigmoid", "init": "uniform", "verify": False}
    drawn = [insert_eca(module, variables, **options)[1] for _ in range(2)]
    assert equal(*drawn)
    kernels = [flat(drawn[0])[f"params/{path}/eca/kernel"] for path in RESIDUAL["setup"]]
    assert all(0 < np.abs(kernel).max() < 3**-0.5 for kernel in kernels)
    assert not equal(kernels[0], kernels[1])
    del options["verify"]
    assert "outputs will change" in str(plan_eca(module, variables, **options))


# --- what can be done with the module ------------------------------------------------------------------------------


def test_it_is_of_the_same_class():
    with_eca, _, _ = gated("setup")
    assert isinstance(with_eca, SetupNet)
    assert type(with_eca).__name__ == "SetupNet"
    assert with_eca.width == 8
    assert repr(with_eca) == repr(SetupNet())
    assert "blocks_0/bn2 (k=3)" in repr(type(with_eca).eca_sites)


def test_equality_and_hash():
    module, variables, x = network("setup")
    with_eca, _, _ = gated("setup")
    again, _ = insert_eca(SetupNet(), variables, example_inputs=x, verify=False)
    fewer, _ = insert_eca(module, variables, example_inputs=x, exclude="twice/bn2", verify=False)
    assert again == with_eca
    assert hash(again) == hash(with_eca)
    assert with_eca not in (fewer, module)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.copy()]
)
def test_copies(copied):
    with_eca, variables, x = gated("setup")
    other = copied(with_eca)
    assert other == with_eca
    assert type(other) is type(with_eca)
    changed = randomised(with_eca, variables)
    assert equal(other.apply(changed, x), with_eca.apply(changed, x))


def test_bind_and_tabulate():
    with_eca, variables, x = gated("setup")
    changed = randomised(with_eca, variables)
    assert equal(with_eca.bind(changed)(x), with_eca.apply(changed, x))
    assert "twice/bn2/eca" in with_eca.tabulate(KEY, x, console_kwargs={"width": 200})


METHODS = {
    "by its name": "features",
    "of the class": SetupNet.features,
    "bound": lambda: gated("setup")[0].features,
    "another function": lambda: lambda module, x: module.features(x),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_gated(method):
    with_eca, variables, x = gated("setup")
    module, old, _ = network("setup")
    chosen = METHODS[method]() if method in ("bound", "another function") else METHODS[method]
    before = module.apply(old, x, method="features")
    assert equal(with_eca.apply(variables, x, method=chosen), before)
    changed = with_eca.apply(randomised(with_eca, variables), x, method=chosen)
    assert np.abs(changed - before).max() > 1e-3
    assert not set(flat(jax.eval_shape(partial(with_eca.init, method=chosen), KEY, x))) - set(flat(variables))


def test_a_submodule_called_by_a_function_is_gated():
    with_eca, variables, _ = gated("setup")
    changed, wide = randomised(with_eca, variables), image(2, 8, 8, 8)
    calls = [m.apply(changed, wide, method=lambda m, x: m.twice(x)) for m in (SetupNet(), with_eca)]
    assert np.abs(calls[0] - calls[1]).max() > 1e-3


class Holder(nn.Module):
    net: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(self.net(x)) + self.net(2 * x).sum()


class Around(nn.Module):
    made: type[nn.Module] = SetupNet

    @nn.compact
    def __call__(self, x):
        return nn.relu(self.made()(x))


def test_nested_in_another_module():
    """As a field and under a name of its own, paths are those of the plain module there."""
    with_eca, _, x = gated("setup")
    module, _, _ = network("setup")
    for plain, more in (
        (Holder(module), Holder(with_eca)),
        (Around(), Around(type(with_eca))),
    ):
        old, new = (flat(jax.eval_shape(m.init, KEY, x)) for m in (plain, more))
        assert {path.split("/")[-1] for path in set(new) - set(old)} == {"kernel"}
        assert len(set(new) - set(old)) == 3
        assert old.keys() < new.keys()
    variables = trained(Holder(with_eca), x)
    with_kernels, without = Holder(with_eca).apply(variables, x), Holder(module).apply(variables, x)
    assert np.abs(with_kernels - without).max() > 1e-3


def test_surgery_around_a_network_with_eca():
    with_eca, _, x = gated("setup")
    holder = Holder(with_eca)
    plan = plan_eca(holder, trained(holder, x), ["net/stem", "net/twice/bn2"], example_inputs=x)
    assert plan.paths == ("net/stem",)
    assert [(one.path, one.reason) for one in plan.skipped] == [("net/twice/bn2", "already has ECA")]
    _, variables = insert_eca(holder, trained(holder, x), plan=plan, example_inputs=x, verify=False)
    assert sum("eca/kernel" in path for path in flat(variables)) == 4


def test_lifted_around_the_network():
    """An ensemble of the network with ECA, and the network under remat."""
    with_eca, variables, x = gated("setup")
    many = nn.vmap(
        type(with_eca),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_size=2,
        in_axes=None,
    )()
    assert flat(trained(many, x))["params/twice/bn2/eca/kernel"].shape == (2, 3, 1, 1)
    assert jax.eval_shape(many.apply, trained(many, x), x).shape == (2, 2, 10)
    less = nn.remat(type(with_eca))()
    with pytest.raises(UnsupportedModelError, match=r"Received: CheckpointSetupNet, .* with ECA"):
        remove_eca(less, variables)
    changed = randomised(with_eca, variables)
    np.testing.assert_allclose(less.apply(changed, x), with_eca.apply(changed, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_a_network_that_is_lifted(lift):
    _, variables, x = network("setup")
    plain = lift(SetupNet)()
    with_eca, more = insert_eca(plain, variables, example_inputs=x, verify=False)
    expected = gated("setup")[0].apply(randomised(with_eca, more), x)
    np.testing.assert_allclose(with_eca.apply(randomised(with_eca, more), x), expected, rtol=1e-4, atol=1e-5)
    assert remove_eca(with_eca, more)[0] == plain


class Child(nn.GroupNorm):
    """Calls the method of its parent class, which is one more call at the same path."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(x)


def test_a_call_of_super_is_gated_once():
    net = nn.Sequential([nn.Conv(8, (3, 3)), Child(2)])
    x = image()
    variables = trained(net, x)
    with_eca, more = insert_eca(net, variables, "conv_norm", example_inputs=x)  # verified, too
    more = randomised(with_eca, more)
    layer = ECA(gate="2sigmoid")
    expected = layer.apply({"params": more["params"]["layers_1"]["eca"]}, net.apply(variables, x))
    np.testing.assert_allclose(with_eca.apply(more, x), expected, rtol=1e-6, atol=1e-6)


def test_two_networks_at_once():
    """A teacher in the same trace keeps its own kernels."""
    with_eca, variables, x = gated("setup")
    teacher, student = variables, randomised(with_eca, variables)
    pair = jax.jit(lambda a, b: (with_eca.apply(a, x), with_eca.apply(b, x)))(teacher, student)
    np.testing.assert_allclose(pair[0], with_eca.apply(teacher, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair[1], with_eca.apply(student, x), rtol=1e-5, atol=1e-6)


def test_what_it_needs_of_flax():
    """The one private name: every call of a method goes through it."""
    assert callable(nn.Module._call_wrapped_method)


# --- again, and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_undo_is_exact(name):
    module, variables, _ = network(name)
    with_eca, more, _ = gated(name)
    back, old = remove_eca(with_eca, more)
    assert back == module
    assert type(back) is type(module)
    assert jax.tree.structure(old) == jax.tree.structure(variables)
    assert all(a is b for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(variables), strict=True))


def test_a_second_insertion_does_nothing():
    with_eca, variables, x = gated("setup")
    again, same = insert_eca(with_eca, variables, example_inputs=x)
    assert again is with_eca
    assert same is variables
    assert {one.reason for one in plan_eca(with_eca, variables, example_inputs=x).skipped} == {"already has ECA"}


def test_a_second_insertion_elsewhere_is_merged():
    module, old, x = network("setup")
    with_eca, variables, _ = gated("setup")
    more, longer = insert_eca(with_eca, variables, "norm", example_inputs=x, verify=False)
    once, _ = insert_eca(module, old, "norm", example_inputs=x, verify=False)
    assert installed_eca(more).paths == installed_eca(once).paths
    assert type(more).__mro__[1] is SetupNet
    assert len(own.eca_parameters(more, longer)["twice"]) == 2
    with pytest.raises(ValueError, match="gate must be that of the ECAs that the module has, '2sigmoid'"):
        insert_eca(with_eca, variables, ["stem"], gate="sigmoid", init="uniform", example_inputs=x)


def test_some_can_be_removed():
    with_eca, variables, _ = gated("setup")
    fewer, rest = remove_eca(with_eca, variables, include="blocks_.*")
    assert installed_eca(fewer).paths == ("twice/bn2",)
    assert "eca" not in rest["params"]["blocks_0"]["bn2"]
    with pytest.raises(NoSiteError, match=r"include must match a site of the model\. Received: 'layer"):
        remove_eca(with_eca, variables, include="layer.*")
    with pytest.raises(NoSiteError, match=r"module must have ECA\. Received: a SetupNet without any"):
        remove_eca(*network("setup")[:2])


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
    assert [(e.kernel_size, e.channels, e.action) for e in plan.entries] == [
        (e.kernel_size, e.channels, e.action) for e in made.entries
    ]
    again, fresh = insert_eca(module, variables, plan=plan, example_inputs=x, verify=False)
    assert jax.tree.structure(fresh) == jax.tree.structure(more)
    assert jax.eval_shape(again.apply, more, x) == jax.eval_shape(with_eca.apply, more, x)


def test_no_plan_from_other_keys():
    module, variables, x = network("resnet")
    with pytest.raises(NoSiteError, match="variables must hold kernels of ECA"):
        own.infer_plan(module, variables, example_inputs=x)
    _, more, _ = gated("resnet")
    with pytest.raises(
        PlanMismatchError, match=r"44 differences: blocks_0/bn1/bias is missing; .*conv_init/kernel is unexpected; "
    ):
        own.infer_plan(SetupNet(), more, example_inputs=x)


# --- checks --------------------------------------------------------------------------------------------------------


def test_verification_counts_and_compares(monkeypatch):
    module, variables, x = network("setup")
    insert_eca(module, variables, example_inputs=x, verify=True)
    layer = _gated.Site.layer
    monkeypatch.setattr(_gated.Site, "layer", lambda site, scope: lambda y: layer(site, scope)(y) * 1.01)
    with pytest.raises(VerifyError, match="outputs differ from those before"):
        insert_eca(module, variables, example_inputs=x)
    made = []

    def forgetful(site, scope):
        made.append(site)
        return layer(site, scope) if len(made) <= 7 else lambda y: y  # the second call of the last in the second run

    monkeypatch.setattr(_gated.Site, "layer", forgetful)
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

    monkeypatch.setattr(_gated.Site, "layer", layer)
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
    "no inputs": ((SETUP, TRAINED), {"example_inputs": None}, TypeError, "example_inputs must be what the module"),
    "no array": ((SETUP, TRAINED), {"example_inputs": (3,)}, TypeError, "Received: tuple without an array"),
    "slot": ((SETUP, TRAINED, "slot"), {}, ValueError, "where='slot', which is for torch"),
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
    assert equal(module.apply(variables, x), both("setup")[0])


def test_options_that_do_not_go_together():
    module, variables, x = network("setup")
    plan = plan_eca(module, variables, example_inputs=x)
    with pytest.raises(ValueError, match=r"plan must stand alone: .* Received: plan and min_channels"):
        insert_eca(module, variables, plan=plan, min_channels=3, example_inputs=x)
    with pytest.raises(TypeError, match=r"plan must be an ECAPlan\. Received: str"):
        insert_eca(module, variables, plan=plan.to_json(), example_inputs=x)
    with pytest.raises(TypeError, match=r"inplace must be False\. Received: inplace=True"):
        insert_eca(module, variables, example_inputs=x, inplace=True)
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
