"""A state is loaded wholly or not at all, holds what the model means, and shares no memory with the model."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.loading_nets import MASK, Loaded, fingerprint, is_key, numpy, package, plain, with_eca

layers = pytest.mark.only("torch", "keras", "linen", "nnx")
parts = pytest.mark.parametrize("part", ["base", "eca"])
OF_JAX = ("keras", "linen", "nnx")


def tensor(kind: str, array: np.ndarray) -> Any:
    """What the framework's own state holds."""
    return torch.from_numpy(np.asarray(array, order="C")) if kind == "torch" else array


def last_float(state: dict[Any, Any]) -> Any:
    """The last entry that a network trains: of floating point, and no mask."""
    found = [path for path, value in state.items() if numpy(value).dtype == np.float32 and "mask" not in str(path)]
    return found[-1]


def entry(net: Loaded, state: dict[Any, Any], name: str) -> Any:
    return next(path for path in state if name in str(path))


# --- what is refused ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """What is put in the place of an array, and what is said of it."""

    make: Callable[[str, np.ndarray], Any]
    error: type[Exception]
    match: str
    only: tuple[str, ...] = ("torch", "keras", "linen", "nnx")


def spoilt(number: float) -> Callable[[str, np.ndarray], Any]:
    def make(kind: str, array: np.ndarray) -> Any:
        array = array.astype(np.float64 if abs(number) < np.inf else np.float32)
        array.flat[-1] = number
        return tensor(kind, array)

    return make


def cast(dtype: Any) -> Callable[[str, np.ndarray], Any]:
    return lambda kind, array: tensor(kind, array.astype(dtype))


def deleted(kind: str, array: np.ndarray) -> Any:
    gone = jnp.array(array)
    gone.delete()
    return gone


def fake(kind: str, array: np.ndarray) -> Any:
    with FakeTensorMode():
        return torch.empty(array.shape)


def parameter(kind: str, array: np.ndarray) -> Any:
    return torch.nn.UninitializedParameter()


def quantised(kind: str, array: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; old checkpoints have them
        return torch.quantize_per_tensor(torch.from_numpy(array), 0.1, 0, torch.qint8)


NUMBER = r"state must hold finite numbers in the range of the model's dtypes\. Received: [\w./]+: "
KIND = r"state must hold tensors with values, of the model's kinds\. Received: [\w./]+: "
BAD = {
    "nan": Bad(spoilt(np.nan), ValueError, NUMBER + "NaN or infinite where the model is not"),
    "infinite": Bad(spoilt(-np.inf), ValueError, NUMBER + "NaN or infinite where the model is not"),
    "too-large": Bad(spoilt(-1e39), ValueError, NUMBER + "too large for float32"),
    "complex": Bad(cast(np.complex64), TypeError, KIND + "complex64, the model's float32"),
    "integer": Bad(cast(np.int32), TypeError, KIND + "int32, the model's float32"),
    "bool": Bad(cast(bool), TypeError, KIND + "bool, the model's float32"),
    "text": Bad(lambda kind, array: "weights", TypeError, KIND + "a str, no"),
    "nothing": Bad(lambda kind, array: None, TypeError, KIND + "a NoneType, no"),
    "objects": Bad(lambda kind, array: np.full(array.shape, None), TypeError, KIND + "a ndarray, no"),
    "ragged": Bad(lambda kind, array: [[1.0], [1.0, 2.0]], TypeError, KIND + "a list, (no|which cannot be read)"),
    "meta": Bad(lambda kind, array: torch.empty(array.shape, device="meta"), TypeError, KIND),
    "shape": Bad(
        lambda kind, array: jax.ShapeDtypeStruct(array.shape, np.float32),
        TypeError,
        KIND + "a ShapeDtypeStruct, (which has|no array with) ",
        OF_JAX,
    ),
    "deleted": Bad(deleted, TypeError, KIND + "a ArrayImpl, which cannot be read: .*deleted", OF_JAX),
    "key": Bad(
        lambda kind, array: jnp.broadcast_to(jax.random.key(0), array.shape),
        TypeError,
        KIND + "(key<fry>, the model's float32|a PRNGKeyArray, which cannot be read)",
        OF_JAX,
    ),
    "sparse": Bad(lambda kind, array: torch.from_numpy(array).to_sparse(), TypeError, KIND + "of layout", ("torch",)),
    "quantised": Bad(quantised, TypeError, KIND + "qint8, the model's float32", ("torch",)),
    "fake": Bad(fake, TypeError, KIND + "a FakeTensor, which cannot be copied", ("torch",)),
    "lazy": Bad(parameter, TypeError, KIND + "an uninitialized parameter", ("torch",)),
}


@layers
@parts
@pytest.mark.parametrize("name", BAD)
def test_one_bad_entry_is_named_and_nothing_is_changed(framework, part, name):
    """The entry is the last one: whoever assigns on the way has changed all others."""
    bad, kind = BAD[name], framework.kind
    if kind not in bad.only:
        return
    net = nets(kind)
    state = net.state(part)
    path = last_float(state)
    others = {key: tensor(kind, numpy(value) / 2) for key, value in state.items() if fits(key, path, value)}
    before = net.bits()
    with pytest.raises(bad.error, match=bad.match) as caught:
        net.load(part, {**state, **others, path: bad.make(kind, numpy(state[path]))})
    assert str(path if isinstance(path, str) else path[-1]) in str(caught.value)
    assert "nothing was loaded" in str(caught.value)
    assert net.bits() == before


def fits(key: Any, bad: Any, value: Any) -> bool:
    return key != bad and numpy(value).dtype == np.float32


_nets: dict[str, Loaded] = {}


def nets(kind: str) -> Loaded:
    """One network for the tests that do not change it; each of them compares all of its bits."""
    if kind not in _nets:
        _nets[kind] = with_eca(kind)
    return _nets[kind]


@layers
def test_what_was_to_be_refused_would_have_been_loaded_without_the_fault(framework):
    """The negative control of the table above: halved as there, and with a good last entry, it changes the network."""
    net = with_eca(framework.kind)
    for part in ("base", "eca"):
        state, before = net.state(part), net.bits()
        path = last_float(state)
        others = {key: tensor(net.kind, numpy(value) / 2) for key, value in state.items() if fits(key, path, value)}
        net = net.after(net.load(part, {**state, **others, path: tensor(net.kind, numpy(state[path]) + 1)}))
        assert net.bits() != before


@layers
def test_all_bad_entries_are_in_one_error(framework):
    net = nets(framework.kind)
    state = net.state("base")
    names = [path for path, value in state.items() if numpy(value).dtype == np.float32 and "mask" not in str(path)][:2]
    bad = {path: tensor(net.kind, np.full_like(numpy(state[path]), np.nan)) for path in names}
    with pytest.raises(ValueError, match=r"NaN or infinite.*; .*NaN or infinite"):
        net.load("base", {**state, **bad})


@layers
@parts
def test_all_differences_are_in_one_error(framework, part):
    """Names and shapes; the same text in all frameworks."""
    net = nets(framework.kind)
    state = net.state(part)
    first, *_, last = (path for path, value in state.items() if numpy(value).ndim)
    names = ["/".join(map(str, path)) if isinstance(path, tuple) else path for path in (first, last)]
    more = (*last[:-1], "more") if isinstance(last, tuple) else "more"
    wrong = {**state, last: tensor(net.kind, np.zeros((7, 7), np.float32)), more: state[last]}
    del wrong[first]
    first, last = (name.replace("/", ".") if net.kind == "nnx" else name for name in names)
    match = rf"3 differences: {first}: missing; .*more: unexpected; {last}: shape \(7, 7\), the model's \("
    before = net.bits()
    with pytest.raises(ValueError, match=match):
        net.load(part, wrong)
    assert net.bits() == before


@layers
@pytest.mark.parametrize("bad", [None, 3, "weights.npz", [("a", 1)]])
def test_what_is_no_mapping_is_refused(framework, bad):
    net = nets(framework.kind)
    if framework.kind == "keras" and isinstance(bad, str):
        bad = b"weights"  # a text is the path of a file there
    before = net.bits()
    with pytest.raises(TypeError, match=r"(state|variables) must be .*Received: (NoneType|int|str|list|bytes)"):
        net.load("eca", bad)
    if not (framework.kind == "keras" and isinstance(bad, bytes)):
        with pytest.raises(TypeError, match=r"must be|not NoneType|not int|not list"):
            net.load("base", bad)
    assert net.bits() == before


# --- what is meant ----------------------------------------------------------------------------------------------------


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


# --- memory -----------------------------------------------------------------------------------------------------------


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes, whose memory JAX and TensorFlow take as it is where nobody copies it."""
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    new = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    new[...] = array
    return new


@layers
@parts
def test_writing_into_the_source_does_not_change_the_model(framework, part):
    net = with_eca(framework.kind)
    arrays = {path: value for path, value in net.state(part).items() if not is_key(value)}
    sources = {path: aligned(numpy(value)) for path, value in arrays.items()}
    net = net.after(net.load(part, {**net.state(part), **{p: tensor(net.kind, a) for p, a in sources.items()}}))
    before = net.bits()
    for array in sources.values():
        array[...] = 1 - array if array.dtype != bool else ~array
    assert net.bits() == before


@layers
def test_writing_into_canonical_weights_does_not_change_the_layer(framework):
    built = framework.build(8, 5)
    source = aligned(np.linspace(-1, 1, 5, dtype=np.float32))
    for holder in (built.holder, as_mapping(framework.kind, built.holder)):
        held = framework.package.from_canonical(holder, {"weight": source})
        before = framework.package.to_canonical(held)["weight"]
        source += 1
        np.testing.assert_array_equal(framework.package.to_canonical(held)["weight"], before)
        before[...] = 0
        assert framework.package.to_canonical(held)["weight"].any()


def as_mapping(kind: str, holder: Any) -> Any:
    if kind == "torch":
        return holder.state_dict()
    if kind == "keras":
        return {"kernel": keras.ops.convert_to_tensor(holder.kernel)}
    return holder["params"] if kind == "linen" else nnx.to_pure_dict(nnx.state(holder))


def test_an_array_that_is_not_copied_would_be_seen():
    """The negative control: what the loaders did before."""
    source = aligned(np.ones(4, np.float32))
    kept, copied = jnp.asarray(source, jnp.float32), jnp.array(source, jnp.float32, copy=True)
    source[...] = 2
    assert kept.tolist() == [2, 2, 2, 2]
    assert copied.tolist() == [1, 1, 1, 1]


@pytest.mark.only("linen", "nnx")
@parts
@pytest.mark.parametrize("committed", [False, True], ids=["free", "committed"])
def test_donating_the_source_does_not_delete_the_model(framework, part, committed):
    net = with_eca(framework.kind)
    source = {path: jnp.array(value, copy=True) for path, value in net.state(part).items()}
    if committed:
        source = jax.device_put(source, jax.devices()[0])
        everywhere = jax.device_put(net.state(part), jax.devices()[0])
        net = net.after(net.load(part, everywhere))
    net = net.after(net.load(part, source))
    before = net.bits()
    names = list(source)
    jax.jit(lambda arrays: arrays, donate_argnums=0)([source[name] for name in names])
    assert all(source[name].is_deleted() for name in names)
    assert net.bits() == before


@pytest.mark.only("nnx")
def test_donating_a_copys_state_does_not_delete_the_original(framework):
    from eca_multi.flax.nnx import insert_eca

    model = plain("nnx")
    copy = insert_eca(model, "conv", inplace=False)
    before = Loaded("nnx", model).bits()
    jax.jit(lambda state: state, donate_argnums=0)(nnx.state(copy))
    assert Loaded("nnx", model).bits() == before


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@layers
def test_a_networks_canonical_weights_are_copied_and_are_loaded_wholly(framework):
    """Into the network in place, and into linen's variables; a spoilt last tensor changes nothing."""
    kind = framework.kind
    build = package(kind).eca_mobilenet_v2
    held = build(num_classes=2, **({"rngs": nnx.Rngs(0)} if kind == "nnx" else {}))
    if kind == "linen":
        held = jax.eval_shape(held.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        start = {name: np.zeros(one.shape, np.float32) for name, one in canonical_shapes().items()}
        held = package(kind).from_canonical(held, start)
    source = {name: aligned(array / 2 + 1) for name, array in package(kind).to_canonical(held).items()}
    held = package(kind).from_canonical(held, source)
    before = {name: array.copy() for name, array in source.items()}
    for array in source.values():
        array[...] = 9
    now = package(kind).to_canonical(held)
    assert all(np.array_equal(now[name], array) for name, array in before.items())
    last = list(source)[-1]
    for spoilt, error in ((np.full_like(source[last], np.nan), ValueError), (torch.empty(2, device="meta"), TypeError)):
        with pytest.raises(error, match=last):
            package(kind).from_canonical(held, {**source, last: spoilt})
    now = package(kind).to_canonical(held)
    assert all(np.array_equal(now[name], array) for name, array in before.items())


def canonical_shapes() -> dict[str, np.ndarray]:
    from eca_multi.torch import eca_mobilenet_v2, to_canonical

    return to_canonical(eca_mobilenet_v2(num_classes=2))
