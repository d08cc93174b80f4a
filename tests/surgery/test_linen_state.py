"""ECA in linen networks: optimisers, checkpoints, and a network that is trained."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, serialization
from flax.traverse_util import flatten_dict

from eca_multi.flax.linen import (
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.errors import NoSiteError
from tests.support.networks_linen import Classifier, Lifted, MobileNet, SetupNet, image, trained

X = image()


@cache
def networks(module, where="residual"):
    """(module, variables) without and with ECA."""
    variables = trained(module, X)
    return (module, variables), insert_eca(module, variables, where, example_inputs=X, verify=False)


def flat(tree):
    return {"/".join(keys): leaf for keys, leaf in flatten_dict(core.unfreeze(tree)).items()}


def same(a, b):
    """Whether two trees have the same structure and the same arrays, bit for bit."""
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(
        np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() and a[k].dtype == b[k].dtype for k in a
    )


def moved(module, variables):
    """The variables with every array changed, as by a step of training."""
    return jax.tree.map(lambda leaf: leaf + 0.01, variables)


# --- parts ---------------------------------------------------------------------------------------------------------


def test_the_ecas_parameters():
    _, (module, variables) = networks(SetupNet())
    kernels = eca_parameters(module, variables)
    assert list(flat(kernels)) == ["blocks_0/bn2/eca/kernel", "blocks_1/bn2/eca/kernel", "twice/bn2/eca/kernel"]
    assert sum(leaf.size for leaf in jax.tree.leaves(kernels)) == installed_eca(module).parameters == 9


def test_parts_make_the_whole():
    (_, old), (module, variables) = networks(SetupNet())
    variables = moved(module, variables)
    base, eca = base_state(module, variables), eca_state(module, variables)
    assert flat(base).keys() == flat(old).keys()
    assert same({**flat(base), **flat(eca)}, variables)
    fresh = jax.eval_shape(module.init, jax.random.key(0), X)
    assert same(load_eca_state(module, load_base_state(module, fresh, base), eca), variables)


def test_a_network_without_eca():
    (module, variables), _ = networks(SetupNet())
    assert base_state(module, variables) == variables
    assert same(load_base_state(module, moved(module, variables), variables), variables)
    for function in (eca_parameters, eca_state, freeze_except_eca):
        with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a SetupNet without it"):
            function(module, variables)


def test_loading_the_base_resets_eca():
    (old, before), (module, variables) = networks(SetupNet())
    loaded = load_base_state(module, moved(module, variables), before)
    assert same(loaded, variables)
    assert same({"y": module.apply(loaded, X)}, {"y": old.apply(before, X)})


def test_kernels_without_an_identity_stay():
    variables = trained(SetupNet(), X)
    module, more = insert_eca(SetupNet(), variables, example_inputs=X, gate="sigmoid", init="uniform", verify=False)
    assert same(load_base_state(module, more, variables), more)


def test_loading_keeps_dtype_and_container():
    (_, old), (module, variables) = networks(SetupNet())
    half = core.freeze(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables))
    loaded = load_base_state(module, half, old)
    assert isinstance(loaded, core.FrozenDict)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"bfloat16"}


def test_old_weights_of_se_blocks_are_left_out():
    (_, old), (module, variables) = networks(MobileNet(se=True), "se")
    assert same(load_base_state(module, variables, old), variables)


def without(tree, path):
    return {keys: leaf for keys, leaf in flatten_dict(tree).items() if "/".join(keys) != path}


def test_all_differences_are_listed():
    from flax.traverse_util import unflatten_dict

    (_, old), (module, variables) = networks(SetupNet())
    leaves = without(old, "params/stem/kernel")
    leaves["params", "more", "bias"] = jnp.zeros(3)
    leaves["params", "head", "bias"] = jnp.zeros(11)
    with pytest.raises(ValueError, match="Received: 3 differences: ") as error:
        load_base_state(module, variables, unflatten_dict(leaves))
    for text in (
        "params/stem/kernel: missing",
        "params/more/bias: unexpected",
        r"params/head/bias: shape (11,), the model's (10,)",
    ):
        assert text in str(error.value)
    eca = unflatten_dict(without(eca_state(module, variables), "params/twice/bn2/eca/kernel"))
    with pytest.raises(ValueError, match="1 differences: params/twice/bn2/eca/kernel: missing"):
        load_eca_state(module, variables, eca)
    with pytest.raises(ValueError, match="Received: none at blocks_0/bn2/eca/kernel, "):
        eca_state(module, old)


# --- optimisers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [SetupNet(), Lifted()], ids=["setup", "lifted"])
def test_only_eca_is_trained(net):
    _, (module, variables) = networks(net)
    labels = freeze_except_eca(module, variables)
    assert jax.tree.structure(labels) == jax.tree.structure(variables["params"])
    optimizer = optax.multi_transform({"eca": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels)
    params = variables["params"]
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: (module.apply({**variables, "params": p}, X) ** 2).sum())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(*step(params, state))
    changed = {path for path, leaf in flat(params).items() if not np.array_equal(leaf, flat(variables["params"])[path])}
    assert changed == set(flat(eca_parameters(module, variables)))


# --- files ---------------------------------------------------------------------------------------------------------


def test_msgpack():
    (_, before), (module, variables) = networks(SetupNet())
    changed = moved(module, variables)
    data = serialization.to_bytes(changed)
    assert same(serialization.from_bytes(variables, data), changed)
    # An old file does not fit the new variables, and goes through load_base_state.
    file = serialization.to_bytes(before)
    with pytest.raises(ValueError, match="target dict keys and state dict keys do not match"):
        serialization.from_bytes(variables, file)
    assert same(load_base_state(module, changed, serialization.msgpack_restore(file)), variables)
    assert len(serialization.msgpack_serialize(eca_state(module, variables))) < 1000


def test_orbax(tmp_path):
    import orbax.checkpoint as ocp

    (_, before), (module, variables) = networks(SetupNet())
    changed = moved(module, variables)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "new", changed)
        checkpointer.save(tmp_path / "old", before)
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(module.init, jax.random.key(0), X)
        assert same(checkpointer.restore(tmp_path / "new", shapes), changed)
        plain = jax.tree.map(jnp.zeros_like, before)
        restored = checkpointer.restore(tmp_path / "old", plain)
    assert same(load_base_state(module, shapes, restored), variables)


FRESH = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from flax import serialization
from tests.support.networks_linen import SetupNet, image
from eca_multi.flax.linen import insert_eca
from eca_multi.surgery.plan import ECAPlan
import pickle

x = image()
shapes = jax.eval_shape(SetupNet().init, jax.random.key(0), x)
module, variables = insert_eca(SetupNet(), shapes, plan=ECAPlan.load("plan.json"), example_inputs=x)
variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
variables = serialization.from_bytes(variables, open("weights.msgpack", "rb").read())
same = pickle.load(open("module.pickle", "rb")) == module
print(json.dumps([same, np.asarray(module.apply(variables, x)).tolist()]))
"""


@pytest.mark.slow
def test_a_fresh_process(tmp_path):
    """From the plan's JSON, the network's own code and a file of weights; and from a pickled module."""
    import pickle

    _, (module, variables) = networks(SetupNet())
    changed = moved(module, variables)
    installed_eca(module).save(tmp_path / "plan.json")
    (tmp_path / "weights.msgpack").write_bytes(serialization.to_bytes(changed))
    (tmp_path / "module.pickle").write_bytes(pickle.dumps(module))
    command = [sys.executable, "-c", FRESH, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    equal, outputs = json.loads(done.stdout)
    assert equal
    np.testing.assert_array_equal(np.asarray(outputs, np.float32), module.apply(changed, X))


# --- the founding question -------------------------------------------------------------------------------------------


def digits():
    """Images of digits as sequences of eight rows of eight numbers: (N, L, C)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = data.images.astype("float32") / 16, data.target
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def fitted(module, variables, steps=120, optimizer=None):
    """Return trained variables, the loss on all training data, and the share of right answers on the test data."""
    (x, y), test = digits()
    optimizer = optimizer or optax.adam(3e-3)

    @jax.jit
    def loss(params, x, y):
        logits = module.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], optimizer.init(variables["params"])
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.choice(len(x), 64, replace=False)
        params, state = step(params, state, x[batch], y[batch])
    right = (np.asarray(module.apply({"params": params}, test[0])).argmax(1) == test[1]).mean()
    return {"params": params}, float(loss(params, x, y)), right


@pytest.mark.slow
def test_the_classifier_with_eca_after_each_convolution():
    """Two convolutions over sequences, each followed by ECA and ReLU, as the founding question asks."""
    x = digits()[0][0][:4]
    module = Classifier()
    variables, _, plain = fitted(module, trained(module, x))
    plan = plan_eca(module, variables, "conv", example_inputs=x)
    assert [(e.path, e.channels, e.kernel_size) for e in plan.entries] == [("conv1", 64, 3), ("conv2", 128, 5)]
    with_eca, more = insert_eca(module, variables, plan=plan, example_inputs=x)
    assert same({"y": with_eca.apply(more, x)}, {"y": module.apply(variables, x)})  # what was learnt is kept
    tuned, _, after = fitted(with_eca, more)
    assert plain > 0.9
    assert after > 0.9
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(eca_parameters(with_eca, tuned)))
    back, rest = remove_eca(with_eca, tuned)
    assert back == module
    assert flat(rest).keys() == flat(variables).keys()
    # From scratch with ECA in it.
    _, loss, fresh = fitted(with_eca, with_eca.init(jax.random.key(1, impl="rbg"), x))
    assert fresh > 0.85
    assert loss < 0.5


@pytest.mark.slow
def test_only_eca_of_the_classifier():
    x = digits()[0][0][:4]
    module = Classifier()
    variables, before, _ = fitted(module, trained(module, x), steps=40)
    with_eca, more = insert_eca(module, variables, "conv", example_inputs=x, verify=False)
    optimizer = optax.multi_transform(
        {"eca": optax.adam(0.05), "frozen": optax.set_to_zero()}, freeze_except_eca(with_eca, more)
    )
    tuned, after, _ = fitted(with_eca, more, steps=100, optimizer=optimizer)
    assert same(base_state(with_eca, tuned), variables)
    assert after < before
