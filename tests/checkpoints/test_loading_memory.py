"""A loaded model shares no memory with the state."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.loading_entries import layers, parts, tensor
from tests.support.loading_nets import Loaded, is_key, numpy, package, plain, with_eca

# --- memory ----------------------------------------------------------------------------------------------------------


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


# --- whole networks --------------------------------------------------------------------------------------------------


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
