"""What a loaded state means: kinds of numbers, casts, places, and an assignment that fails is undone."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.loading_entries import entry, layers, nets, tensor
from tests.support.loading_nets import MASK, Loaded, fingerprint, numpy, package, with_eca


@layers
def test_masks_counts_flags_and_keys_are_loaded(framework):
    """A mask of -inf is the network's own constant; an integer stays one."""
    net = with_eca(framework.kind)
    state = net.state("base")
    count = entry(net, state, "num_batches" if net.kind == "torch" else "count")
    state[count] = tensor(net.kind, np.full_like(numpy(state[count]), 7))
    flag = entry(net, state, "flag")
    state[flag] = tensor(net.kind, np.array([False, True]))
    if net.kind == "nnx":
        state[("drop", "rngs", "key")] = jax.random.key(5)
    net = net.after(net.load("base", state))
    now = net.state("base")
    assert int(numpy(now[count])) == 7
    assert numpy(now[flag]).tolist() == [False, True]
    assert np.array_equal(numpy(now[entry(net, now, "mask")]), MASK)
    assert {path: fingerprint(value) for path, value in now.items()} == {
        path: fingerprint(value) for path, value in state.items()
    }


@layers
@pytest.mark.parametrize(
    ("name", "array", "error", "match"),
    [
        ("mask", -MASK.T, ValueError, "NaN or infinite where the model is not"),  # infinite, and elsewhere
        ("mask", np.where(MASK == 0, 0, np.nan).astype("f4"), ValueError, "NaN or infinite where the model is not"),
        ("count", np.array(1.5, np.float32), TypeError, "float32, the model's int"),
        ("count", np.array(2**40), ValueError, r"out of the range of (u?int32)"),
        ("count", np.array(True), TypeError, "bool, the model's int"),
        ("flag", np.array([1, 0]), TypeError, "int64, the model's bool"),
    ],
)
def test_buffers_keep_their_kind(framework, name, array, error, match):
    net = nets(framework.kind)
    state = net.state("base")
    if name == "count" and framework.kind == "torch":
        name = "num_batches"
        if error is ValueError:
            array, match = np.array(2**63, np.uint64), "out of the range of int64"
    before = net.bits()
    with pytest.raises(error, match=match):
        net.load("base", {**state, entry(net, state, name): tensor(net.kind, array)})
    assert net.bits() == before


@layers
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_floating_point_is_cast(framework, dtype):
    net = with_eca(framework.kind)
    state = net.state("eca")
    values = {path: numpy(value).astype(dtype) for path, value in state.items()}
    given = dict(values)
    if net.kind == "torch":
        name = np.dtype(dtype).name
        given = {path: torch.tensor(v.astype(np.float64)).to(getattr(torch, name)) for path, v in values.items()}
    net = net.after(net.load("eca", given))
    for path, value in net.state("eca").items():
        assert numpy(value).dtype == np.float32
        np.testing.assert_array_equal(numpy(value), values[path].astype(np.float32))


class Numbers(nnx.Module):
    """Flax lets a variable hold anything; a count as a number of Python is common."""

    def __init__(self, count: int, name: str) -> None:
        self.conv = nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0))
        self.count, self.rate, self.name = nnx.Variable(count), nnx.Variable(0.5), nnx.Variable(name)

    def __call__(self, x: Any) -> Any:
        return self.conv(x)


@pytest.mark.only("nnx")
def test_nnx_numbers_of_python_are_loaded_as_such(framework):
    """What is neither array nor number belongs to its module."""
    from eca_multi.flax.nnx import base_state, insert_eca, load_base_state

    net = insert_eca(Numbers(1, "own"), ["conv"])
    load_base_state(net, {**base_state(Numbers(2, "other")), "rate": np.float32(0.25)})
    values = [one.get_value() for one in (net.count, net.rate, net.name)]
    assert values == [2, 0.25, "own"]
    assert [type(value) for value in values] == [int, float, str]
    with pytest.raises(TypeError, match="count: float64, the model's int64"):
        load_base_state(net, {**base_state(net), "count": 2.5})
    assert net.count.get_value() == 2


@pytest.mark.only("linen")
def test_linen_numbers_of_python_are_loaded_as_such(framework):
    from eca_multi.flax.linen import base_state, load_base_state

    module, variables = with_eca("linen").held
    own = {**variables, "counts": {"steps": 1}}
    state = {**base_state(module, own), "counts": {"steps": 2}}
    assert load_base_state(module, own, state)["counts"] == {"steps": 2}


@pytest.mark.only("linen", "nnx")
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["same", "cast"])
def test_what_was_put_nowhere_goes_where_the_source_was_put(framework, dtype):
    """A network that is restored over a mesh may be too large for one device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    net = with_eca(framework.kind)
    source = {path: jax.device_put(jnp.asarray(value, dtype), replicated) for path, value in net.state("eca").items()}
    net = net.after(net.load("eca", source))
    tree = net.held[1] if net.kind == "linen" else nnx.to_pure_dict(nnx.state(net.held))
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(tree) if "eca" in str(path)]
    assert kernels
    assert all(kernel.sharding == replicated for kernel in kernels)


@pytest.mark.only("torch")
def test_torch_reads_every_view(framework):
    """Expanded, transposed, conjugate-free views, and the model's own tensors in another order."""
    net = with_eca("torch")
    state = net.state("base")
    state["conv.weight"] = torch.ones(1).expand(4, 3, 3, 3)
    state["head.weight"] = torch.arange(16.0).reshape(1, 1, 4, 4).permute(2, 3, 0, 1)
    own = package(net.kind).base_state(net.held)  # the model's own memory
    state["norm.running_mean"], state["norm.running_var"] = own["norm.running_var"], own["norm.running_mean"]
    expected = {path: value.clone() for path, value in state.items()}
    net.load("base", state)
    assert all(torch.equal(value, expected[path]) for path, value in package(net.kind).base_state(net.held).items())


@pytest.mark.only("torch")
@pytest.mark.parametrize("part", ["base", "eca"])
def test_torch_a_model_without_memory_is_refused(framework, part):
    net = with_eca("torch")
    state = net.state(part)
    with pytest.raises(ValueError, match=r"model must hold its tensors\. Received: .*weight.* without values"):
        Loaded("torch", net.held.to("meta")).load(part, state)


@pytest.mark.only("torch")
def test_torch_a_lazy_kernel_stays_lazy(framework):
    from eca_multi.torch import insert_eca, load_base_state

    net = insert_eca(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Identity()), ["1"], kernel_size=3)
    state = {"0.weight": torch.ones(4, 3, 1, 1), "0.bias": torch.ones(4)}
    load_base_state(net, state)
    assert torch.equal(net[0].bias, state["0.bias"])


@pytest.mark.only("torch")
def test_torch_an_assignment_that_fails_is_undone(framework):
    """A tensor whose elements share their memory cannot be written; all that came before it is put back."""
    from eca_multi.torch import base_state, insert_eca, load_base_state

    net = insert_eca(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)), "conv")
    net[1].running_var = torch.ones(1).expand(4)
    state = {name: value + 1 for name, value in base_state(net).items()}
    before = {name: fingerprint(value) for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        load_base_state(net, state)
    assert {name: fingerprint(value) for name, value in net.state_dict().items()} == before


@pytest.mark.keras
def test_keras_an_assignment_that_fails_is_undone(monkeypatch):
    net = with_eca("keras")
    state, before = {path: value + 1 for path, value in net.state("eca").items()}, net.bits()
    assign, calls = keras.Variable.assign, []

    def fail_once(self, value):
        calls.append(self.path)
        if len(calls) == 2:
            raise MemoryError("no memory for the second one")
        return assign(self, value)

    monkeypatch.setattr(keras.Variable, "assign", fail_once)
    with pytest.raises(MemoryError, match="second"):
        net.load("eca", state)
    assert net.bits() == before
    assert len(calls) == 4


@pytest.mark.only("nnx")
def test_nnx_an_assignment_that_fails_is_undone(framework, monkeypatch):
    net = with_eca("nnx")
    state, before = {path: value + 1 for path, value in net.state("eca").items()}, net.bits()
    set_value, calls = nnx.Variable.set_value, []

    def fail_once(self, value):
        calls.append(value)
        if len(calls) == 2:
            raise MemoryError("no memory for the second one")
        return set_value(self, value)

    monkeypatch.setattr(nnx.Variable, "set_value", fail_once)
    with pytest.raises(MemoryError, match="second"):
        net.load("eca", state)
    assert net.bits() == before
