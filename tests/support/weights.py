"""What the tests of canonical weights share: layers that hold weights, in every framework."""

import functools

import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

from tests.support.frameworks import FRAMEWORKS

LAYERS = {framework.kind: framework for framework in FRAMEWORKS if framework.kind != "jax"}
PAIRS = [(a, b) for a in LAYERS for b in LAYERS]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
C, K = 6, 5
only_layers = pytest.mark.only("torch", "keras", "linen", "nnx")
shareds = pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-channel"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def holder(framework, shared=True, dtype="float32", channels=C, k=K):
    """What to_canonical and from_canonical take: a fresh layer, or linen's variables, which nothing changes."""
    return (once if framework.kind == "linen" else fresh)(framework, shared, dtype, channels, k)


def fresh(framework, shared, dtype, channels, k):
    option = {"torch": "dtype", "keras": "dtype"}.get(framework.kind, "param_dtype")
    value = getattr(torch, dtype) if framework.kind == "torch" else dtype
    return framework.build(channels, k, shared=shared, **{option: value}).holder


once = functools.cache(fresh)


def native(framework, held):
    """The parameter itself, as a NumPy array in the framework's own layout."""
    tensor = {
        "torch": lambda: held.conv.weight,
        "keras": lambda: keras.ops.convert_to_tensor(held.kernel),
        "linen": lambda: held["params"]["kernel"],
        "nnx": lambda: held.kernel[...],
    }[framework.kind]()
    return framework.numpy(tensor), framework.dtype_of(tensor)


def mapping(framework, held):
    """The framework's own mapping of names to parameters."""
    return {
        "torch": lambda: held.state_dict(),
        "keras": lambda: {"kernel": keras.ops.convert_to_tensor(held.kernel)},
        "linen": lambda: held["params"],
        "nnx": lambda: nnx.to_pure_dict(nnx.state(held)),
    }[framework.kind]()


def draw(rng, shared=True, dtype="float32", channels=C, k=K):
    """Asymmetric canonical weights that the dtype holds exactly."""
    values = rng.normal(size=k if shared else (channels, k)).astype(DTYPES[dtype])
    return {"weight": values.astype(np.float32) if dtype == "bfloat16" else values}


def assert_equal(a, b):
    """Same names, dtypes, shapes and bits."""
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes()


V = np.linspace(-1, 1, K, dtype=np.float32)
NAN, INF = (np.where(np.arange(K) == 2, bad, V) for bad in (np.nan, np.inf))
