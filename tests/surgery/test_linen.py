"""ECA into linen networks that exist: where it goes, and that the network stays what it was until trained."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core
from flax import linen as nn

from eca_multi.flax import linen as own
from eca_multi.flax.linen import ECA, insert_eca, installed_eca, plan_eca, remove_eca
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.reasons import TOKENS
from tests.support.networks_linen import (
    KEY,
    NETWORKS,
    RESIDUAL,
    Bottleneck,
    Carried,
    MobileNet,
    ResNet,
    SetupNet,
    equal,
    flat,
    gated,
    image,
    network,
    randomised,
    trained,
)

pytestmark = pytest.mark.usefixtures("unoptimised")

# --- where it goes -----------------------------------------------------------------------------------------------

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


COMPILED = [  # the default run leaves out what another one is like
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("resnet", "convnext", "setup"))) for name in NETWORKS
]
WITH_TRAIN = ("resnet", "bottleneck", "setup", "mobilenet", "mobilenet-se", "pre-activation")


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
    assert ECAPlan.from_json(plan.to_json()).to_json() == plan.to_json()


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
        "tokens": TOKENS.format(path="tokens"),
        "pair": "its output is not one array",
        "flat": "its output has rank 2, which has no spatial axes",
    }
    with_eca, more = insert_eca(module, variables, ["first"], example_inputs=x, verify=False)
    assert jax.eval_shape(with_eca.apply, more, x).shape == (2, 4)


def test_the_user_says_where_tokens_have_their_channels():
    module, x = Odd(), image(2, 6, 5, 3)
    variables = trained(module, x)
    axis = {"tokens": {"channel_axis": -1}}
    with_eca, more = insert_eca(module, variables, ["tokens"], overrides=axis, example_inputs=x)  # verified inside
    (entry,) = installed_eca(with_eca).entries
    assert (entry.channels, entry.layout) == (4, "channels_last")
    assert more["params"]["tokens"]["eca"]["kernel"].shape == (entry.kernel_size, 1, 1)
    with pytest.raises(NoSiteError, match="a sequence of tokens"):
        plan_eca(module, variables, ["tokens"], example_inputs=x)


# --- outputs stay, and can change ----------------------------------------------------------------------------------


@cache
def both(name, where="residual", train=False):
    """Outputs and changed collections before and after, operation by operation."""
    module, variables, x = network(name)
    with_eca, more, _ = gated(name, where)
    options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": KEY}} if train else {}
    with jax.disable_jit():
        return module.apply(variables, x, **options), with_eca.apply(more, x, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_outputs_are_bit_equal(name):
    assert equal(*both(name))


@pytest.mark.parametrize("name", ["resnet", pytest.param("mobilenet", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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
    with pytest.raises(UnsupportedModelError, match="verify=True must run the network"):
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
