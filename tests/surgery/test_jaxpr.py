"""Residual branches in jaxprs: what is the branch, what is no residual add, through every kind of inner jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eca_multi.flax._jaxpr.flow import Flow
from eca_multi.flax._jaxpr.residual import UNUSED, residual_branches
from eca_multi.flax._jaxpr.tags import tag, tag_input
from eca_multi.surgery.reasons import PARALLEL

X = np.zeros((2, 8, 8, 4), np.float32)
KEY = jax.random.key(0)


def conv(path, x, channels=None, stride=1, width=3):
    """A tagged convolution with a bias; its kernel is closed over."""
    rank = x.ndim - 2
    kernel = np.ones((*(width,) * rank, x.shape[-1], channels or x.shape[-1]), np.float32)
    spec = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}[rank]
    y = lax.conv_general_dilated(x, kernel, (stride,) * rank, "SAME", dimension_numbers=spec)
    return tag(path, y + jnp.ones(kernel.shape[-1]).reshape((1,) * (x.ndim - 1) + (-1,)))


def norm(path, x, train=False):
    """BatchNorm's arithmetic: with running statistics, or with the batch's."""
    axes = tuple(range(x.ndim - 1))
    shape = (1,) * (x.ndim - 1) + (-1,)
    ones = jnp.ones(x.shape[-1])
    mean, var = (x.mean(axes), x.var(axes)) if train else (ones, ones)
    y = (x - mean.reshape(shape)) * (lax.rsqrt(var + 1e-5) * ones).reshape(shape) + jnp.broadcast_to(ones, x.shape)
    return tag(path, y)


def layer_norm(path, x):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return tag(path, (x - mean) * lax.rsqrt(var + 1e-6) * jnp.ones(x.shape[-1]) + jnp.ones(x.shape[-1]))


def dropout(path, x, on=True):
    if not on:
        return tag(path, x)
    mask = jax.random.bernoulli(KEY, 0.9, x.shape)
    return tag(path, jnp.where(mask, x / 0.9, jnp.zeros_like(x)))


def basic(path, x, channels=None, stride=1, train=False):
    channels = channels or x.shape[-1]
    y = jax.nn.relu(norm(f"{path}.bn1", conv(f"{path}.conv1", x, channels, stride), train))
    y = norm(f"{path}.bn2", conv(f"{path}.conv2", y), train)
    if channels != x.shape[-1] or stride != 1:
        x = norm(f"{path}.down_bn", conv(f"{path}.down", x, channels, stride, width=1), train)
    return tag(path, jax.nn.relu(x + y))


def branches(function, *inputs):
    return residual_branches(Flow(jax.make_jaxpr(function)(*(inputs or (X,)))))


def axis(path, function, *inputs):
    """The channels' axis of a module's output."""
    flow = Flow(jax.make_jaxpr(function)(*(inputs or (X,))))
    return [flow.nodes[number].axis for number in flow.tags("out", path)]


def taken(function, *inputs):
    return [one.path for one in branches(function, *inputs) if not one.reason]


def skipped(function, *inputs):
    return {one.path: one.reason for one in branches(function, *inputs) if one.reason}


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_basic_blocks_with_and_without_a_projection(train):
    def net(x):
        x = tag("stem", jax.nn.relu(conv("stem.conv", x)))
        x = basic("layer1.0", x, train=train)
        return basic("layer2.0", basic("layer1.1", x, train=train), 8, 2, train=train)

    found = branches(net)
    assert [one.path for one in found] == ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2"]
    assert [one.owner for one in found] == ["layer1.0", "layer1.1", "layer2.0"]
    assert axis("layer2.0.bn2", net) == [3]
    assert found[2].tensor == "layer2.0: residual branch of the add"
    assert all(one.notes == () for one in found)


def test_the_order_of_the_operands_does_not_matter():
    assert taken(lambda x: x + conv("a", x)) == taken(lambda x: conv("a", x) + x) == ["a"]


def test_a_bottleneck_with_a_projection():
    def net(x):
        y = jax.nn.relu(norm("bn1", conv("conv1", x, 2, width=1)))
        y = jax.nn.relu(norm("bn2", conv("conv2", y)))
        y = norm("bn3", conv("conv3", y, 8, width=1))
        return jax.nn.relu(y + norm("down_bn", conv("down", x, 8, width=1)))

    assert taken(net) == ["bn3"]


def test_a_pre_activation_block():
    def block(path, x):
        y = jax.nn.relu(norm(f"{path}.bn1", x))
        shortcut = conv(f"{path}.down", y, width=1) if path == "b0" else x
        y = conv(f"{path}.conv1", y)
        y = conv(f"{path}.conv2", jax.nn.relu(norm(f"{path}.bn2", y)))
        return tag(path, shortcut + y)

    assert taken(lambda x: block("b1", block("b0", x))) == ["b0.conv2", "b1.conv2"]


def test_an_inverted_residual_with_squeeze_and_excitation():
    def net(x):
        y = jax.nn.silu(norm("bn1", conv("expand", x, 16, width=1)))
        y = jax.nn.silu(norm("bn2", conv("depthwise", y)))
        s = conv("se.up", jax.nn.silu(conv("se.down", y.mean((1, 2), keepdims=True), 2, width=1)), 16, width=1)
        y = tag("se", y * jax.nn.sigmoid(s))
        return tag("block", x + norm("bn3", conv("project", y, 4, width=1)))

    assert taken(net) == ["bn3"]


def test_squeeze_and_excitation_at_the_branchs_end():
    def net(x, with_tag):
        y = norm("bn", conv("conv", x))
        s = conv("se.up", jax.nn.relu(conv("se.down", y.mean((1, 2), keepdims=True), 2, width=1)), 4, width=1)
        y = y * jax.nn.sigmoid(s)
        return x + (tag("se", y) if with_tag else y)

    assert taken(lambda x: net(x, True)) == ["se"]
    (one,) = branches(lambda x: net(x, False))
    assert one.path == "bn"
    assert one.notes == ("another gate follows",)


def test_two_adds_of_one_block():
    def net(x):
        y = x + layer_norm("ln", conv("mix", x))
        return tag("block", y + conv("mlp.down", jax.nn.gelu(conv("mlp.up", y, 16, width=1)), 4, width=1))

    assert taken(net) == ["ln", "mlp.down"]


@pytest.mark.parametrize("approximate", [True, False])
def test_a_convnext_block_with_a_layer_scale_and_drop_path(approximate):
    def net(x, tagged):
        y = layer_norm("ln", conv("dw", x))
        y = tag("up", y @ jnp.ones((4, 16)))
        y = tag("down", jax.nn.gelu(y, approximate=approximate) @ jnp.ones((16, 4)))
        y = y * jnp.full(4, 1e-6)
        y = tag("scale", y) if tagged else y
        mask = jax.random.bernoulli(KEY, 0.9, (2, 1, 1, 1))
        return tag("block", x + tag("drop_path", tag_input("drop_path", y) * mask / 0.9))

    assert taken(lambda x: net(x, True)) == ["scale"]
    (one,) = branches(lambda x: net(x, False))
    assert one.path == "down"
    assert one.notes == ("a layer scale follows the gate",)


@pytest.mark.parametrize("on", [False, True])
def test_dropout_and_containers_are_passed_through(on):
    def net(x):
        y = tag("branch.0", jax.nn.relu(conv("branch.0.conv", x)))
        y = dropout("branch.2", tag_input("branch.2", norm("branch.1", y)), on)
        return tag("block", x + tag("branch", y))

    (one,) = branches(net)
    assert (one.path, one.owner) == ("branch.1", "")


def test_the_owner_is_the_block_whatever_is_nested_in_it():
    def net(x):
        y = tag("net.block.branch", norm("net.block.branch.1", conv("net.block.branch.0", x)))
        return tag("net", tag("net.block", x + y))

    (one,) = branches(net)
    assert one.owner == "net.block"


def test_an_activation_before_the_add_is_noted():
    (one,) = branches(lambda x: x + jax.nn.silu(norm("bn", conv("conv", x))))
    assert one.path == "bn"
    assert one.notes == ("an activation follows the gate, before the add",)


def test_an_output_that_goes_elsewhere_is_noted():
    def net(x):
        y = norm("bn", conv("conv", x))
        return x + y, conv("head", y)

    assert branches(net)[0].notes == ("its output goes elsewhere too, and is gated there as well",)


@pytest.mark.parametrize("shape", [(2, 16, 4), (2, 4, 4, 4, 4)])
def test_sequences_and_volumes(shape):
    found = branches(lambda x: basic("b", x), np.zeros(shape, np.float32))
    assert [one.path for one in found] == ["b.bn2"]
    assert axis("b.bn2", lambda x: basic("b", x), np.zeros(shape, np.float32)) == [len(shape) - 1]


def test_channels_first():
    def net(x):
        y = lax.conv_general_dilated(x, np.ones((4, 4, 3, 3), np.float32), (1, 1), "SAME")
        return x + tag("conv", y)

    x = np.zeros((2, 4, 8, 8), np.float32)
    assert taken(net, x) == ["conv"]
    assert axis("conv", net, x) == [1]


def test_a_transposed_branch_tells_the_axis_at_its_site():
    def net(x):
        y = conv("conv", x.transpose(0, 2, 1))
        return x + y.transpose(0, 2, 1)

    x = np.zeros((2, 4, 16), np.float32)
    assert taken(net, x) == ["conv"]
    assert axis("conv", net, x) == [2]


# --- what is no residual add -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_biases_norms_and_activations_are_none(train):
    def net(x):
        x = jax.nn.gelu(norm("bn", conv("conv1", x), train))
        x = jax.nn.hard_swish(layer_norm("ln", conv("conv2", x)))
        return x + jnp.ones(x.shape)  # a position embedding

    assert branches(net) == []


def test_a_conditioning_vector_is_none():
    def net(x, t):
        return conv("conv", x) + (t @ jnp.ones((3, 4)))[:, None, None, :]

    assert branches(net, X, np.zeros((2, 3), np.float32)) == []


def test_global_response_normalisation_is_none():
    def net(x):
        x = conv("conv", x)
        scale = jnp.sqrt((x**2).sum((1, 2), keepdims=True))
        return jnp.ones(4) * (x * scale) + jnp.ones(4) + x

    assert branches(net) == []


# --- what is not clear is told ---------------------------------------------------------------------------------------


def test_branches_of_equal_depth():
    reason = skipped(lambda x: tag("rep", conv("rep.a", x) + conv("rep.b", x, width=1)))
    assert reason == {"rep": PARALLEL}


def test_an_add_tells_its_line_of_code():
    def two(x):
        y = conv("a", x) + conv("b", x, width=1)
        return x + conv("c", y)

    first = two.__code__.co_firstlineno
    assert [one.line for one in branches(two)] == [f"{__name__}:{first + 1}", f"{__name__}:{first + 2}"]


def test_operands_with_nothing_in_common():
    def net(x, z):
        return tag("fuse", conv("a", x) + z)

    assert "nothing in common" in skipped(net, X, X)["fuse"]


def test_tokens():
    def net(x):
        return tag("mlp", x + tag("mlp.down", jax.nn.gelu(x @ jnp.ones((4, 16))) @ jnp.ones((16, 4))))

    assert "no convolution sets apart" in skipped(net, np.zeros((2, 9, 4), np.float32))["mlp"]


def test_a_branch_that_ends_in_a_function_or_in_two_modules():
    def pooled(x):
        y = conv("conv", x)
        return tag("a", x + lax.reduce_window(y, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"))

    def two(x):
        return tag("b", x + jax.nn.relu(conv("c1", conv("c0", x)) + conv("c2", x)))

    assert "ends in a function" in skipped(pooled)["a"]
    assert "its branch ends in c1, c2, not in a module" in skipped(two)["b"]


def test_a_chain_of_adds_is_gated_at_every_branch():
    def two(x):
        return tag("b", x + conv("c1", x) + norm("bn", conv("c2", x)))

    def of_the_other(x):
        y = conv("c1", x)
        return tag("b", conv("c2", y) + (y + x))

    def with_a_position(x, z):
        return tag("b", x + conv("c1", x) + z)

    assert taken(two) == ["c1", "bn"]
    assert taken(of_the_other) == ["c2", "c1"]
    assert taken(with_a_position, X, X) == ["c1"]


def test_a_chain_of_adds_is_gated_at_no_branch():
    def wavenet(x):
        skips = []
        for i in range(3):
            y = jax.nn.relu(conv(f"dilated{i}", x))
            skips.append(conv(f"skip{i}", y))
            x = x + conv(f"res{i}", y)
        return tag("skips", skips[0] + skips[1] + skips[2])

    def one_is_a_function(x):
        pooled = lax.reduce_window(conv("c2", x), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        return tag("b", x + conv("c1", x) + pooled)

    def rep(x):
        return tag("rep", norm("id", x) + conv("c3", x) + conv("c1", x, width=1))

    assert taken(wavenet) == ["res0", "res1"]
    assert skipped(wavenet) == {"": UNUSED, "skips": PARALLEL}
    assert taken(one_is_a_function) == []
    assert "ends in a function" in skipped(one_is_a_function)["b"]
    assert skipped(rep) == {"rep": PARALLEL}


# --- inner jaxprs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_jit_and_remat(wrap):
    assert taken(lambda x: wrap(lambda x: basic("b", x, 8, 2))(x)) == ["b.bn2"]
    assert taken(lambda x: x + wrap(lambda x: conv("conv", x))(x)) == ["conv"]


def test_cached_inner_jaxprs_share_their_variables():
    """Two calls of one jitted function, one of them in the shortcut: their convolutions are different ones."""

    @jax.jit
    def inner(x):
        return conv("c", x)

    def net(x):
        return tag("block", inner(x) + inner(inner(x)))

    (one,) = branches(net)
    assert (one.path, one.reason) == ("c", "")
    assert Flow(jax.make_jaxpr(net)(X)).calls("c") == 3


def test_a_scan_over_stacked_blocks():
    def net(x):
        def body(x, scale):
            return basic("b", x * scale), x.mean()

        return lax.scan(body, x, jnp.ones(5))

    (one,) = branches(net)
    assert one.path == "b.bn2"
    assert Flow(jax.make_jaxpr(net)(X)).calls("b.bn2") == 5


def test_a_scan_with_remat_inside_a_while_loop():
    def net(x):
        def body(x, _):
            return jax.checkpoint(lambda x: basic("b", x))(x), None

        x = lax.scan(body, x, None, length=2)[0]
        return lax.while_loop(lambda c: c.sum() < 0, lambda c: basic("w", c), x)

    assert taken(net) == ["b.bn2", "w.bn2"]


def test_outputs_stacked_by_a_scan():
    def net(x):
        _, ys = lax.scan(lambda c, row: (c, conv("rows", row)), 0.0, x)
        return x + ys

    (one,) = branches(net, np.zeros((3, 2, 8, 4), np.float32))
    assert "ends in a function" in one.reason  # the site's own tensor is a slice of what is added


def test_cond():
    def net(x):
        y = norm("bn", conv("conv", x))
        return lax.cond(x.sum() > 0, lambda x, y: x + y, lambda x, y: x, x, y)

    assert taken(net) == ["bn"]


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
def test_custom_gradients(kind):
    if kind == "jvp":
        act = jax.custom_jvp(lambda x: jnp.tanh(x))
        act.defjvp(lambda p, t: (act(*p), t[0]))
    else:
        act = jax.custom_vjp(lambda x: jnp.tanh(x))
        act.defvjp(lambda x: (act(x), None), lambda _, g: (g,))

    assert taken(lambda x: x + norm("bn", conv("c2", act(conv("c1", x))))) == ["bn"]
    assert taken(lambda x: act(x) + norm("bn", conv("c2", act(conv("c1", x))))) == ["bn"]


def test_vmap():
    def net(x):
        return x + conv("conv", x)

    assert taken(jax.vmap(net), np.zeros((3, 2, 8, 8, 4), np.float32)) == ["conv"]


def test_vmap_over_members_that_share_the_map():
    """The map has 1 as the axis of the members; a gate of 1 by 1 (the control) is no map."""

    def net(scale, x):
        return x + conv("conv", x * scale)

    members = jax.vmap(net, in_axes=(0, None))
    assert taken(lambda x: members(jnp.ones(3), x)) == ["conv"]
    assert branches(lambda x: x.mean((1, 2), keepdims=True) + conv("conv", x)) == []


# --- tags ------------------------------------------------------------------------------------------------------------


def test_tags_change_nothing_and_pass_what_is_no_tensor():
    value = {"x": X, "mask": np.ones((2, 8)) > 0, "n": 3, "loss": jnp.float32(1), "none": None}
    assert tag("a", value)["n"] == 3
    np.testing.assert_array_equal(tag("a", jnp.asarray(X) + 1), X + 1)
    jaxpr = jax.make_jaxpr(lambda x: tag("a.b:c/d", {"x": x, "i": jnp.arange(3)}))(X)
    (mark,) = [Flow(jaxpr).nodes[n].mark for n in Flow(jaxpr).tags()]
    assert mark.path == "a.b:c/d"


def test_which_arguments_are_inputs():
    def net(kernel, x):
        return x + tag("conv", lax.conv_general_dilated(x, kernel, (1, 1), "SAME")) + tag("k", kernel.sum() + 0 * x)

    jaxpr = jax.make_jaxpr(net)(np.ones((4, 4, 3, 3), np.float32), np.zeros((2, 4, 8, 8), np.float32))
    assert [one.path for one in residual_branches(Flow(jaxpr, inputs=[1])) if not one.reason] == ["conv"]
