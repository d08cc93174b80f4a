"""ECA in nnx networks: what Flax, JAX, optax, pickle and orbax do to networks works with it, and old weights load."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as orbax
import pytest
from flax import nnx

from eca_multi.flax.nnx import (
    ECAParam,
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.errors import NoSiteError
from tests.support import networks_nnx as networks
from tests.support.networks_nnx import Conv, filled, images

X = images((2, 16, 16, 3))
SITES = ("layers.0.0.bn2", "layers.1.0.bn2")


def plain():
    model = filled(lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0)))
    model.eval()
    return model


def with_eca(trained=True):
    model = insert_eca(plain(), example_inputs=X, verify=False)
    if trained:
        for number, path in enumerate(SITES):
            at(model, path).eca.kernel[...] = jnp.asarray([0.3, -0.2, 0.5 + number])[:, None, None]
    return model


def at(model, path):
    for key in path.split("."):
        model = model[int(key)] if key.isdigit() else getattr(model, key)
    return model


@nnx.jit
def call(model, x):
    return model(x)


def run(model, x=X):
    return np.asarray(call(nnx.clone(model), x))


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b))


# --- Flax ------------------------------------------------------------------------------------------------------------


def test_old_paths_stay_and_kernels_come():
    old = dict(nnx.to_flat_state(nnx.state(plain())))
    new = dict(nnx.to_flat_state(nnx.state(with_eca())))
    assert set(old) < set(new)
    assert {".".join(map(str, path)) for path in set(new) - set(old)} == {f"{site}.eca.kernel" for site in SITES}


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        nnx.clone,
        lambda model: nnx.merge(*nnx.split(model), copy=True),
        lambda model: nnx.merge(*nnx.split(model, ECAParam, nnx.BatchStat, ...), copy=True),
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["deepcopy", "clone", "split", "split by type", "pickle"],
)
def test_copies(copied):
    model = with_eca()
    other = copied(model)
    assert nnx.graphdef(other) == nnx.graphdef(model)
    assert type(at(other, SITES[0])) is type(at(model, SITES[0]))
    assert installed_eca(other).entries == installed_eca(model).entries
    assert np.array_equal(run(other), run(model))
    at(other, SITES[0]).eca.kernel[...] = jnp.zeros((3, 1, 1))
    assert at(model, SITES[0]).eca.kernel[...].any()
    assert nnx.graphdef(remove_eca(other)) == nnx.graphdef(plain())


@pytest.mark.slow
def test_a_pickle_opens_in_a_fresh_process(tmp_path):
    model = with_eca()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    (tmp_path / "graph.pkl").write_bytes(pickle.dumps(nnx.graphdef(model)))
    np.save(tmp_path / "y.npy", np.asarray(model(X)))
    np.save(tmp_path / "x.npy", np.asarray(X))
    code = (
        "import pickle, sys, numpy as np\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "model = pickle.load(open('model.pkl', 'rb'))\n"
        "from eca_multi.flax.nnx import installed_eca\n"
        "from flax import nnx\n"
        "assert nnx.graphdef(model) == pickle.load(open('graph.pkl', 'rb'))\n"
        f"assert installed_eca(model).paths == {SITES!r}\n"
        "np.testing.assert_array_equal(model(np.load('x.npy')), np.load('y.npy'))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)


def test_the_site_is_still_what_it_was():
    site = at(with_eca(), SITES[0])
    assert isinstance(site, nnx.BatchNorm)
    assert type(site).__name__ == "BatchNormWithECA"
    assert site.num_features == 8
    site.momentum = 0.5
    assert site.momentum == 0.5


def test_training_and_evaluation_mode():
    model = with_eca()
    model.train()
    assert not at(model, SITES[0]).use_running_average
    model.eval()
    assert at(model, SITES[0]).use_running_average


def test_jit_compiles_once():
    traces = []

    @nnx.jit
    def forward(model, x):
        traces.append(1)
        return model(x)

    for model in (plain(), with_eca(), with_eca(), nnx.clone(with_eca())):
        forward(model, X)
    assert len(traces) == 2  # one for the plain network, one for all with ECA


def test_abstract_networks():
    abstract = nnx.eval_shape(lambda: networks.ResNet(blocks=(1, 1), rngs=nnx.Rngs(0)))
    plan = plan_eca(abstract, example_inputs=jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32))
    assert plan.paths == SITES
    insert_eca(abstract, plan=plan)
    kernel = at(abstract, SITES[0]).eca.kernel.get_value()
    assert kernel == jax.ShapeDtypeStruct((3, 1, 1), jnp.float32)
    model = with_eca()
    nnx.update(abstract, nnx.state(model))
    abstract.eval()
    assert np.array_equal(run(abstract), run(model))
    shape = nnx.eval_shape(lambda model, x: model(x), model, X)
    assert shape.shape == (2, 10)


@pytest.mark.slow
def test_networks_that_compile_a_part_of_themselves():
    """An inner jit, remat and scan: the finder sees into them, and the proof holds."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.jitted = networks.Layer(3, rngs)
            self.rematerialised = networks.Layer(3, rngs)
            self.stacked = networks.Stacked(4, 2, rngs=rngs)

        def __call__(self, x):
            x = nnx.jit(lambda m, x: m(x))(self.jitted, x)
            x = nnx.remat(lambda m, x: m(x))(self.rematerialised, x)
            return self.stacked(x)

    model = filled(lambda: Net(nnx.Rngs(0)))
    plan = plan_eca(model, example_inputs=X)
    assert plan.paths == ("jitted.norm", "rematerialised.norm", "stacked.stack.norm")
    assert plan_eca(model, example_inputs=X) == plan  # and not a trace that nnx.jit remembers
    insert_eca(model, plan=plan, example_inputs=X)
    assert len(plan_eca(model, "norm", example_inputs=X).skipped) == 3
    remove_eca(model)


class Compiled(nnx.Module):
    """It compiles itself as a whole: XLA fuses the gates into what is around them, and rounds another way."""

    def __init__(self, rngs):
        self.net = networks.MobileNet(rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        return self.net(x)


@pytest.mark.slow
def test_a_network_that_compiles_itself_is_compared_operation_by_operation():
    model = filled(lambda: Compiled(nnx.Rngs(0)))
    model.eval()
    before = np.asarray(model(X))
    insert_eca(model, "conv_norm", example_inputs=X)
    assert len(installed_eca(model).entries) == 16
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)


def test_it_runs_on_a_mesh():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    model = plain()
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    nnx.update(model, jax.device_put(nnx.state(model), replicated))
    insert_eca(model, example_inputs=X, verify=False)
    assert at(model, SITES[0]).eca.kernel.get_value().sharding == replicated


# --- training --------------------------------------------------------------------------------------------------------


@nnx.jit
def step(model, optimizer, x, labels):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    wrt = nnx.DiffState(0, optimizer.wrt)
    value, gradient = nnx.value_and_grad(loss, argnums=wrt)(model)
    optimizer.update(model, gradient)
    return value


def test_training_only_eca():
    model = with_eca(trained=False)
    before = jax.tree.map(np.asarray, base_state(model))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=freeze_except_eca(model))
    labels = jnp.array([1, 7])
    first = step(model, optimizer, X, labels)
    for _ in range(5):
        last = step(model, optimizer, X, labels)
    assert last < first
    assert same(base_state(model), before)
    assert all(np.asarray(kernel).any() for kernel in jax.tree.leaves(eca_parameters(model)))


@pytest.mark.slow
def test_training_everything():
    model = with_eca(trained=False)
    model.train()
    before = jax.tree.map(np.asarray, base_state(model))
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
    losses = [step(model, optimizer, X, jnp.array([1, 7])) for _ in range(5)]
    assert losses[-1] < losses[0]
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), base_state(model), before)
    assert changed["conv1"]["kernel"]
    assert changed["bn1"]["mean"]
    assert all(np.asarray(kernel).any() for kernel in jax.tree.leaves(eca_parameters(model)))


def test_an_optimizer_from_before_says_so():
    """It has no moments for the kernels: a loud error and not a kernel that never learns."""
    model = plain()
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    insert_eca(model, example_inputs=X, verify=False)
    with pytest.raises(ValueError, match=r"(?s)pytree structure error.*eca"):
        step(model, optimizer, X, jnp.array([1, 7]))


def test_an_optimizer_without_memory_takes_the_kernels():
    model = plain()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    insert_eca(model, example_inputs=X, verify=False)
    step(model, optimizer, X, jnp.array([1, 7]))
    assert all(np.asarray(kernel).any() for kernel in jax.tree.leaves(eca_parameters(model)))


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16).astype(np.float32)  # (1797, 8, 8): sequences of 8 rows with 8 channels
    return images[:1500], data.target[:1500], images[1500:], data.target[1500:]


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
def test_the_two_layer_classifier_learns_digits(digits, gated):
    x, labels, test_x, test_labels = digits
    model = networks.Sequence(rngs=nnx.Rngs(0))
    if gated:
        insert_eca(model, "conv", example_inputs=x[:2])
        assert [e.kernel_size for e in installed_eca(model).entries] == [3, 5]
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    for epoch in range(6):
        order = np.random.default_rng(epoch).permutation(len(x))
        for i in range(0, len(x), 100):
            step(model, optimizer, x[order[i : i + 100]], labels[order[i : i + 100]])
    accuracy = float((model(test_x).argmax(-1) == test_labels).mean())
    assert accuracy > 0.85
    if gated:
        assert all(np.abs(np.asarray(k)).max() > 1e-3 for k in jax.tree.leaves(eca_parameters(model)))


@pytest.mark.slow
def test_a_few_steps_on_digits(digits):
    """The default run's share of the test above: the loss falls, and the kernels learn."""
    x, labels, _, _ = digits
    model = insert_eca(networks.Sequence(rngs=nnx.Rngs(0)), "conv", example_inputs=x[:2])
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)
    losses = [step(model, optimizer, x[:100], labels[:100]) for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(np.asarray(kernel).any() for kernel in jax.tree.leaves(eca_parameters(model)))


# --- weights ---------------------------------------------------------------------------------------------------------


def test_the_base_state_is_the_plain_networks():
    model, original = with_eca(), plain()
    assert same(base_state(model), nnx.to_pure_dict(nnx.state(original)))
    assert jax.tree.structure(base_state(model)) == jax.tree.structure(nnx.to_pure_dict(nnx.state(original)))
    assert load_base_state(original, base_state(model)) is original


@pytest.mark.slow
def test_old_weights_go_into_the_new_network():
    old, model = plain(), with_eca()
    state = nnx.to_pure_dict(nnx.state(old))
    state["conv1"]["kernel"] = state["conv1"]["kernel"] * 2
    load_base_state(model, state)
    assert np.array_equal(model.conv1.kernel[...], state["conv1"]["kernel"])
    assert not any(np.asarray(kernel).any() for kernel in jax.tree.leaves(eca_parameters(model)))
    nnx.update(old, nnx.from_flat_state(nnx.to_flat_state(nnx.state(old))))
    old.conv1.kernel[...] = state["conv1"]["kernel"]
    np.testing.assert_array_equal(model(X), old(X))


def test_flax_itself_loads_old_states():
    state = nnx.to_pure_dict(nnx.state(plain()))
    model = with_eca()
    for load in ("replace_by_pure_dict", "update"):
        whole = nnx.state(model)
        if load == "update":
            nnx.update(model, nnx.state(plain()))
        else:
            nnx.replace_by_pure_dict(whole, state)
            nnx.update(model, whole)
        assert same(base_state(model), state)
        assert np.asarray(at(model, SITES[0]).eca.kernel[...]).any()


def test_the_kernels_alone():
    model = with_eca()
    state = eca_state(model)
    assert len(jax.tree.leaves(state)) == 2
    other = load_eca_state(with_eca(trained=False), state)
    assert np.array_equal(run(other), run(model))
    merged = nnx.to_pure_dict(nnx.state(other))
    assert same(state["layers"][0][0]["bn2"]["eca"], merged["layers"][0][0]["bn2"]["eca"])


def test_kernels_of_the_authors_own_ecas_belong_to_the_base():
    from eca_multi.flax.nnx import ECA

    net = nnx.Sequential(Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), ECA(8, rngs=nnx.Rngs(0)))
    before = base_state(net)
    insert_eca(net, "conv")
    assert same(base_state(net), before)
    assert list(eca_state(net)["layers"]) == [0]


@pytest.mark.parametrize("load", [load_base_state, load_eca_state])
def test_all_differences_are_listed_and_nothing_is_loaded(load):
    model = with_eca()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    state = base_state(model) if load is load_base_state else eca_state(model)
    block = state["layers"][0][0]["bn2"]
    if load is load_base_state:
        del block["scale"]
        block["mean"] = np.zeros(5)
        expected = [r"layers.0.0.bn2.scale: missing", r"layers.0.0.bn2.mean: shape \(5,\), the model's \(8,\)"]
    else:
        block["eca"] = {"kernel": np.zeros((5, 1, 1))}
        del state["layers"][1]
        expected = [r"layers.1.0.bn2.eca.kernel: missing", r"bn2.eca.kernel: shape \(5, 1, 1\)"]
    state["extra"] = np.zeros(1)
    with pytest.raises(ValueError, match="Received: 3 differences") as caught:
        load(model, state)
    for text in (*expected, "extra: unexpected"):
        with pytest.raises(ValueError, match=text):
            load(model, state)
    assert "nothing was loaded" in str(caught.value)
    assert same(nnx.to_pure_dict(nnx.state(model)), before)


def test_states_of_a_network_without_eca():
    for function in (eca_parameters, eca_state, freeze_except_eca, lambda m: load_eca_state(m, {})):
        with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a ResNet without it"):
            function(plain())
    with pytest.raises(TypeError, match=r"state must be a nested dict or an nnx.State"):
        load_base_state(plain(), "weights.npz")


# --- orbax -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_old_orbax_checkpoint_loads_into_the_new_network(tmp_path):
    old = plain()
    state = nnx.to_pure_dict(nnx.state(old))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "old", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "old")
    model = with_eca(trained=False)
    whole = nnx.state(model)
    nnx.replace_by_pure_dict(whole, restored)
    nnx.update(model, whole)
    np.testing.assert_array_equal(model(X), old(X))
    load_base_state(with_eca(), restored)  # list indices come back as text


def test_an_orbax_checkpoint_builds_the_network_again(tmp_path):
    model = with_eca()
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "new", nnx.to_pure_dict(nnx.state(model)))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "new")
    fresh = plain()
    insert_eca(fresh, plan=infer_plan(fresh, restored))
    whole = nnx.state(fresh)
    nnx.replace_by_pure_dict(whole, restored)
    nnx.update(fresh, whole)
    assert nnx.graphdef(fresh) == nnx.graphdef(model)
    assert np.array_equal(run(fresh), run(model))
