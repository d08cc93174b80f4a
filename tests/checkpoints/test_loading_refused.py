"""A state that does not fit is refused in one error, and nothing is changed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.loading_entries import OF_JAX, last_float, layers, nets, parts, tensor
from tests.support.loading_nets import numpy, with_eca


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
