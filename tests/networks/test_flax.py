"""ECA-ResNet and ECA-MobileNetV2 in Flax linen and nnx: one body for both, values against torch's in float64."""

import inspect
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax import nnx
from torch.nn import functional

import eca_multi.torch
from eca_multi.checkpoints import CheckpointError
from eca_multi.networks import NETWORKS, MobileNetV2, ResNet, count_parameters, find, kernel_sizes, tensors

NAMES = list(NETWORKS)
TINY = {
    # basic blocks, the original stem, a strided shortcut
    "tiny_basic": ResNet("tiny_basic", (1, 2), "basic", widths=((8, 64), (8, 24), (8, 24)), kernels=(3, 5)),
    # bottlenecks in groups, timm's stem, shortcuts that average
    "tiny_deep": ResNet(
        "tiny_deep",
        (1, 2),
        stem="deep_tiered",
        stem_width=8,
        average_down=True,
        groups=2,
        widths=((8, 8, 16), (8, 8, 24), (8, 8, 24)),
        kernels=(5, 3),
    ),
    "tiny_mobile": MobileNetV2("tiny_mobile", settings=((1, 16, 1, 1), (6, 24, 2, 2)), kernels=(1, 3)),
}


@pytest.fixture(scope="module", autouse=True)
def tables():
    with pytest.MonkeyPatch.context() as patch:
        for name, network in TINY.items():
            patch.setitem(NETWORKS, name, network)
        yield


class Linen:
    """A network of linen and its variables."""

    package = import_module("eca_multi.flax.linen")

    def __init__(self, name, dims=2, **options):
        build = import_module("eca_multi.flax.linen.networks")._builder(name)
        self.model = build(dims=dims, **options)
        x = jax.ShapeDtypeStruct((1, *[32] * dims, self.model.in_channels), jnp.float32)
        self.variables = jax.eval_shape(self.model.init, jax.random.key(0), x)

    def load(self, weights):
        self.variables = self.package.from_canonical(self.variables, weights)
        return self

    def weights(self):
        return self.package.to_canonical(self.variables)

    def __call__(self, x, train=False):
        return jax.jit(lambda v, x: self.model.apply(v, x))(self.variables, x)

    def step(self, x, labels):
        """Loss, gradients and statistics of one training step, by canonical name."""

        def loss(params):
            variables = {**self.variables, "params": params}
            logits, new = self.model.apply(variables, x, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, labels), new

        (value, new), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(self.variables["params"])
        self.variables = {**self.variables, **new}
        return value, self.package.to_canonical({"params": grads, "batch_stats": new["batch_stats"]})


class Nnx:
    """The same of nnx."""

    package = import_module("eca_multi.flax.nnx")

    def __init__(self, name, **options):
        build = import_module("eca_multi.flax.nnx.networks")._builder(name)
        self.model = nnx.eval_shape(lambda: build(**options, rngs=nnx.Rngs(0)))

    def load(self, weights):
        self.package.from_canonical(self.model, weights)
        return self

    def weights(self):
        return self.package.to_canonical(self.model)

    def __call__(self, x):
        self.model.eval()
        graph, state = nnx.split(self.model)
        return jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x)

    def step(self, x, labels):
        self.model.train()
        value, grads = nnx.jit(nnx.value_and_grad(lambda model: cross_entropy(model(x), labels)))(self.model)
        new = nnx.to_pure_dict(nnx.state(self.model, nnx.BatchStat))
        return value, self.package.to_canonical(merged(nnx.to_pure_dict(grads), new))


def merged(first, second):
    """Two trees with the same inner names."""
    both = {name: second[name] if name not in first else first[name] for name in {**first, **second}}
    return {
        name: merged(first[name], second[name]) if isinstance(tree, dict) and name in first and name in second else tree
        for name, tree in both.items()
    }


KINDS = {"linen": Linen, "nnx": Nnx}
both = pytest.mark.parametrize("kind", KINDS)
tiny = pytest.mark.parametrize(
    "name", ["tiny_basic", *(pytest.param(name, marks=pytest.mark.slow) for name in list(TINY)[1:])]
)


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def twins(kind, name, param_dtype=jnp.float64, **options):
    """The same network in Flax and in torch, scales and statistics as of a trained one, and the weights of both."""
    model = eca_multi.torch.networks._builder(name)(dtype=torch.float64, **options)
    rng = np.random.default_rng(0)
    weights = eca_multi.torch.to_canonical(model)
    for key, tensor in model.tensors.items():
        if tensor.kind in ("norm_scale", "norm_var"):
            weights[key] = rng.uniform(0.5, 1.5, tensor.shape)
        elif tensor.kind in ("norm_bias", "norm_mean"):
            weights[key] = rng.normal(0, 0.1, tensor.shape)
        elif tensor.kind == "eca":
            weights[key] = rng.normal(0, 0.5, tensor.shape)
        weights[key] = weights[key].astype(np.float32).astype(np.float64)  # Flax keeps statistics in float32
    eca_multi.torch.from_canonical(model, weights)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return KINDS[kind](name, param_dtype=param_dtype, **options).load(weights), model, weights


def images(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def run_torch(model, x):
    with torch.no_grad():
        y = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    return [np.moveaxis(part.numpy(), 1, -1) for part in (y if isinstance(y, list) else [y])]


def check_equal(found, expected):
    found = found if isinstance(found, list) else [found]
    assert [f.shape for f in found] == [e.shape for e in expected]
    for one, other in zip(found, expected, strict=True):  # 1 / sqrt(var + eps) is computed in float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


# --- names and sizes ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])])
def test_counts_and_sizes_are_the_originals(kind, name):
    held = KINDS[kind](name)
    state = held.variables["params"] if kind == "linen" else nnx.to_pure_dict(nnx.state(held.model, nnx.Param))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == count_parameters(tensors(find(name)))
    assert held.model.kernel_sizes == kernel_sizes(find(name))
    assert held.model.network is find(name)
    assert held.model.preprocessing == getattr(eca_multi.torch, name)(device="meta").preprocessing


@both
def test_keywords_are_torchs(kind):
    """With the same defaults in the same order; Flax's own stand at the end."""
    own = {"linen": ["dtype", "param_dtype"], "nnx": ["dtype", "param_dtype", "rngs"]}[kind]
    for name in NAMES:
        mine, theirs = (
            [(p.name, p.default, p.kind) for p in inspect.signature(getattr(package, name)).parameters.values()]
            for package in (KINDS[kind].package, eca_multi.torch)
        )
        assert mine[:7] == theirs[:7]
        assert [p for p, _, _ in mine[7:]] == own


@both
@pytest.mark.slow
def test_a_new_network_starts_as_torchs(kind):
    if kind == "linen":
        model = Linen.package.eca_resnet18(num_classes=10)
        weights = Linen.package.to_canonical(model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    else:
        weights = Nnx.package.to_canonical(Nnx.package.eca_resnet18(num_classes=10, rngs=nnx.Rngs(0)))
    for name, tensor in tensors(find("eca_resnet18"), num_classes=10).items():
        array = weights[name]
        if tensor.kind == "conv" and array.size > 8_000:
            assert array.std() == pytest.approx((2 / (array.shape[0] * array[0, 0].size)) ** 0.5, rel=0.05), name
        elif tensor.kind == "eca":
            assert 0 < np.abs(array).max() <= array.size**-0.5
        elif tensor.kind.startswith("norm_"):
            assert (array == (tensor.kind in ("norm_scale", "norm_var"))).all()
    for array in (weights["fc.weight"], weights["fc.bias"]):
        assert 0.5 * 512**-0.5 < np.abs(array).max() <= 512**-0.5


# --- values against torch ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", [pytest.param(False, marks=pytest.mark.slow), True], ids=["logits", "features"])
def test_inference_is_torchs(kind, name, features):
    with jax.enable_x64(True):
        ours, theirs, _ = twins(kind, name, num_classes=7, features_only=features)
        x = images(2, 33, 30, 3)  # odd: what pools and strides do at the border
        check_equal(ours(x), run_torch(theirs.eval(), x))


@pytest.mark.slow
@both
@tiny
def test_a_training_step_is_torchs(kind, name):
    """nnx keeps statistics in float32 and does not train in float64."""
    exact = kind == "linen"
    tolerance = 1e-5 if exact else 1e-3
    options = {"num_classes": 7} if name != "tiny_mobile" else {"num_classes": 0}  # without its dropout
    x, labels = images(4, 32, 32, 3).astype(np.float32), np.array([0, 6, 3, 3])
    with jax.enable_x64(exact):
        ours, theirs, before = twins(kind, name, jnp.float64 if exact else jnp.float32, **options)
        value, found = ours.step(jnp.asarray(x, jnp.float64 if exact else jnp.float32), jnp.asarray(labels))
    logits = theirs.train()(torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float64)))
    loss = functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    assert float(value) == pytest.approx(loss.item(), rel=tolerance)
    after = eca_multi.torch.to_canonical(theirs)
    grads = dict(theirs.named_parameters())
    for key, tensor in theirs.tensors.items():
        expected = after[key]
        if tensor.kind == "norm_var":  # divided by n here, by n - 1 there
            n = count_of(theirs, tensor.module, x.shape)
            batch = (expected - 0.9 * before[key]) * 10 * (n - 1) / n
            expected = 0.9 * before[key] + 0.1 * batch
        elif tensor.kind != "norm_mean":
            native = f"{tensor.module}.conv.weight" if tensor.kind == "eca" else key
            expected = grads[native].grad.numpy().reshape(tensor.shape)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[key], expected, rtol=10 * tolerance, atol=tolerance * scale, err_msg=key)


def count_of(model, path, shape):
    """How many values each channel of a normalisation sees."""
    seen = []
    hook = model.get_submodule(path).register_forward_hook(lambda m, i, o: seen.append(i[0].numel() // i[0].shape[1]))
    with torch.no_grad():
        model.eval()(torch.zeros(shape[0], shape[-1], *shape[1:-1], dtype=torch.float64))
    hook.remove()
    return seen[0]


@both
@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"global_pool": "max", "num_classes": 5},
        {"global_pool": None},
        {"in_channels": 1, "num_classes": 5},
    ],
    ids=str,
)
def test_pools_and_classifiers(kind, options):
    with jax.enable_x64(True):
        ours, theirs, _ = twins(kind, "tiny_basic", **options)
        x = images(2, 32, 32, options.get("in_channels", 3))
        check_equal(ours(x), run_torch(theirs.eval(), x))


@both
@tiny
def test_signals(kind, name):
    with jax.enable_x64(True):
        ours, theirs, _ = twins(kind, name, dims=1, in_channels=2, num_classes=5)
        x = images(2, 65, 2)
        check_equal(ours(x), run_torch(theirs.eval(), x))


@both
@pytest.mark.slow
@pytest.mark.parametrize("name", ["eca_resnet50", "eca_mobilenet_v2", "ecaresnet50d", "ecaresnetlight"])
def test_full_size_networks_are_torchs(kind, name):
    with jax.enable_x64(True):
        ours, theirs, _ = twins(kind, name, num_classes=7)
        x = images(1, 64, 64, 3)
        check_equal(ours(x), run_torch(theirs.eval(), x))


@both
def test_half_precision_in_and_out(kind):
    ours = KINDS[kind]("tiny_basic", num_classes=3, dtype=jnp.bfloat16)
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    assert ours.load(weights)(jnp.ones((1, 32, 32, 3))).dtype == jnp.bfloat16


@pytest.mark.slow
def test_drop_path_drops_whole_samples_in_training():
    drops = Linen("tiny_basic", num_classes=3, drop_path=0.9).load(
        eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    )
    x = jnp.ones((8, 32, 32, 3))
    y, _ = drops.model.apply(
        drops.variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    assert len(np.unique(np.asarray(y).round(5), axis=0)) > 1  # equal samples, some of which skip blocks
    assert len(np.unique(np.asarray(drops(x)).round(5), axis=0)) == 1


@pytest.mark.slow
def test_nnx_drops_in_training_too():
    model = import_module("eca_multi.flax.nnx.networks")._builder("tiny_basic")(
        num_classes=3, drop_path=0.9, rngs=nnx.Rngs(0)
    )
    x = jnp.ones((8, 32, 32, 3))
    assert len(np.unique(np.asarray(model(x)).round(5), axis=0)) > 1
    model.eval()
    assert len(np.unique(np.asarray(model(x)).round(5), axis=0)) == 1


# --- weights ---------------------------------------------------------------------------------------------------------


@both
def test_weights_go_in_and_out_bit_by_bit(kind):
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_deep")(num_classes=3))
    found = KINDS[kind]("tiny_deep", num_classes=3).load(weights).weights()
    assert list(found) == list(weights)
    assert all(np.array_equal(found[name], weights[name]) for name in weights)


@both
def test_what_does_not_fit_changes_nothing(kind):
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    held = KINDS[kind]("tiny_basic", num_classes=3).load(weights)
    wrong = {**weights, "extra": np.zeros(3), "fc.weight": np.zeros((4, 24))}
    del wrong["conv1.weight"]
    with pytest.raises(ValueError, match=r"'conv1.weight' is missing; .*'fc.weight' has shape .*'extra' is unexpected"):
        held.load(wrong)
    assert all(np.array_equal(array, weights[name]) for name, array in held.weights().items())


def test_a_state_or_a_pure_dict_of_nnx_is_taken_and_not_changed():
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    state = nnx.state(Nnx("tiny_basic", num_classes=3).model)
    for holder in (state, nnx.to_pure_dict(state)):
        loaded = Nnx.package.from_canonical(holder, weights)
        assert type(loaded) is type(holder)
        assert np.array_equal(Nnx.package.to_canonical(loaded)["conv1.weight"], weights["conv1.weight"])


def test_boxes_of_linen_are_kept():
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    variables = Linen("tiny_basic", num_classes=3).load(weights).variables
    kernel = variables["params"]["fc"]["kernel"]
    variables["params"]["fc"]["kernel"] = nn.LogicallyPartitioned(kernel, ("embed", "classes"))
    loaded = Linen.package.from_canonical(variables, weights)
    assert loaded["params"]["fc"]["kernel"].names == ("embed", "classes")


def test_a_network_without_weights_says_so():
    with pytest.raises(ValueError, match=r"variables from eval_shape, which has none yet. Call init for real"):
        Linen("tiny_basic").weights()
    with pytest.raises(ValueError, match=r"a network from eval_shape, which has none yet. Build it for real"):
        Nnx("tiny_basic").weights()


def test_another_network_with_the_same_first_module_is_refused():
    with pytest.raises(CheckpointError, match="must hold the tensors of a network of this package"):
        Linen.package.to_canonical({"params": {"conv1": {"kernel": jnp.zeros((7, 7, 3, 64))}}})


# --- bad input -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": -1}, "num_classes must be"),
        ({"global_pool": "sum"}, "global_pool must be 'avg', 'max' or None"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"dims": 3}, "dims must be 1 or 2"),
        ({"kernel_sizes": [3, 5]}, "kernel_sizes must have 4 entries"),
    ],
)
def test_bad_keywords(kind, options, match):
    extra = {"rngs": nnx.Rngs(0)} if kind == "nnx" else {}
    with pytest.raises(ValueError, match=match):
        KINDS[kind].package.eca_resnet18(**options, **extra)


@both
def test_bad_input(kind):
    weights = eca_multi.torch.to_canonical(eca_multi.torch.networks._builder("tiny_basic")(num_classes=3))
    held = KINDS[kind]("tiny_basic", num_classes=3).load(weights)
    with pytest.raises(ValueError, match="Received: 4 channels"):
        held(jnp.ones((1, 32, 32, 4)))
    with pytest.raises(ValueError, match="Received: rank 3"):
        held(jnp.ones((1, 32, 3)))
