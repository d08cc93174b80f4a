"""Canonical weights in and out of every framework: bit-equal and strict."""

import copy
import re

import jax
import keras
import ml_dtypes
import numpy as np
import pytest
from flax import core, nnx
from flax import linen as nn

from eca_multi import reference
from eca_multi._canonical import NATIVE_NAMES
from tests.support.weights import (
    DTYPES,
    INF,
    LAYERS,
    NAN,
    PAIRS,
    C,
    K,
    V,
    assert_equal,
    draw,
    dtypes,
    holder,
    mapping,
    native,
    only_layers,
    shareds,
)


@only_layers
@shareds
@dtypes
def test_layout_and_bits(framework, rng, shared, dtype):
    """Tap j of channel c stands where the framework keeps it: moved, never flipped."""
    weights = draw(rng, shared, dtype)
    held = framework.package.from_canonical(holder(framework, shared, dtype), weights)
    values, held_dtype = native(framework, held)
    expected = np.atleast_2d(weights["weight"])[:, None]  # (1 or C, 1, k)
    expected = expected if framework.kind == "torch" else expected.transpose(2, 1, 0)
    assert held_dtype == dtype
    np.testing.assert_array_equal(values, expected)
    assert_equal(framework.package.to_canonical(held), weights)


@only_layers
def test_names(framework):
    held = holder(framework)
    assert list(mapping(framework, held)) == [NATIVE_NAMES[framework.kind]]
    assert list(framework.package.to_canonical(held)) == ["weight"]


@only_layers
def test_one_channel_has_one_kernel(framework, rng):
    """ECA-NS with C = 1 is the shared layer."""
    held = holder(framework, shared=False, channels=1)
    weights = framework.package.to_canonical(held)
    assert weights["weight"].shape == (K,)
    assert_equal(framework.package.to_canonical(framework.package.from_canonical(held, weights)), weights)


@only_layers
def test_canonical_is_a_copy(framework):
    held = holder(framework)
    first = framework.package.to_canonical(held)
    before = first["weight"].copy()
    first["weight"][:] = 7
    np.testing.assert_array_equal(framework.package.to_canonical(held)["weight"], before)


@only_layers
def test_loading_does_not_keep_the_callers_array(framework, rng):
    weights = draw(rng)
    held = framework.package.from_canonical(holder(framework), weights)
    before = framework.package.to_canonical(held)
    weights["weight"][:] = 7
    assert_equal(framework.package.to_canonical(held), before)


@only_layers
@shareds
@dtypes
def test_mapping_in_mapping_out(framework, rng, shared, dtype):
    """The framework's own mapping gives a new one of the same dtype and leaves the old one alone."""
    held = holder(framework, shared, dtype)
    params, weights = mapping(framework, held), draw(rng, shared, dtype)
    given = {"weight": weights["weight"].copy()}
    old = {name: framework.numpy(value) for name, value in params.items()}
    new = framework.package.from_canonical(params, given)
    assert_equal(framework.package.to_canonical(new), weights)
    assert_equal(given, weights)
    assert list(new) == list(params)
    for name, value in params.items():
        assert framework.dtype_of(new[name]) == framework.dtype_of(value) == dtype
        np.testing.assert_array_equal(framework.numpy(value), old[name])


def test_layers_are_loaded_in_place_and_linen_is_not(rng):
    weights = draw(rng)
    for kind in ("torch", "keras", "nnx"):
        held = holder(LAYERS[kind])
        assert LAYERS[kind].package.from_canonical(held, weights) is held
    held = holder(LAYERS["linen"])
    before = copy.deepcopy(held)
    assert LAYERS["linen"].package.from_canonical(held, weights) is not held
    jax.tree.map(np.testing.assert_array_equal, held, before)


def test_torch_new_state_dict_loads_strictly(rng):
    framework = LAYERS["torch"]
    layer, weights = holder(framework), draw(rng)
    layer.load_state_dict(framework.package.from_canonical(layer.state_dict(), weights), strict=True)
    assert_equal(framework.package.to_canonical(layer), weights)
    assert layer.conv.weight.requires_grad


def test_linen_keeps_other_collections_and_boxes(rng):
    package, weights = LAYERS["linen"].package, draw(rng)
    kernel = holder(LAYERS["linen"])["params"]["kernel"]
    boxed = {"params": {"kernel": nn.Partitioned(kernel, ("taps", None, None))}, "cache": {"step": 3}}
    for variables in (boxed, core.freeze(boxed)):
        new = package.from_canonical(variables, weights)
        assert new["cache"] == {"step": 3}
        assert new["params"]["kernel"].names == ("taps", None, None)
        assert_equal(package.to_canonical(new), weights)
    assert boxed["params"]["kernel"].value is kernel


def test_nnx_state_forms(rng):
    framework, weights = LAYERS["nnx"], draw(rng)
    layer = holder(framework)
    state = nnx.state(layer)
    new = framework.package.from_canonical(state, weights)
    assert isinstance(new, nnx.State)
    assert isinstance(new["kernel"], framework.package.ECAParam)
    assert_equal(framework.package.to_canonical(new), weights)
    assert framework.package.to_canonical(state)["weight"].tobytes() != weights["weight"].tobytes()
    nnx.update(layer, new)
    assert_equal(framework.package.to_canonical(layer), weights)


@pytest.mark.keras
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
@shareds
@dtypes
def test_round_trip_is_bit_equal(rng, a, b, shared, dtype):
    """A -> canonical -> B -> canonical, and back into A."""
    a, b = LAYERS[a], LAYERS[b]
    first = a.package.from_canonical(holder(a, shared, dtype), draw(rng, shared, dtype))
    weights = a.package.to_canonical(first)
    second = b.package.from_canonical(holder(b, shared, dtype), weights)
    assert_equal(b.package.to_canonical(second), weights)
    back = a.package.from_canonical(holder(a, shared, dtype), b.package.to_canonical(second))
    np.testing.assert_array_equal(native(a, back)[0], native(a, first)[0])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras fixes the precision of its JAX backend at import")
@pytest.mark.keras
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_round_trip_of_float64(rng, a, b):
    with jax.enable_x64(True):
        a, b = LAYERS[a], LAYERS[b]
        weights = {"weight": rng.normal(size=K)}
        first = a.package.from_canonical(holder(a, dtype="float64"), weights)
        second = b.package.from_canonical(holder(b, dtype="float64"), a.package.to_canonical(first))
        assert_equal(b.package.to_canonical(second), weights)


@pytest.mark.keras
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_loaded_layers_agree_and_a_flip_would_be_seen(rng, a, b):
    x, weights = rng.normal(size=(2, C, 4, 3)) + np.arange(C)[:, None, None], draw(rng)
    y = reference.forward(x, weights["weight"]).y
    flipped = reference.forward(x, weights["weight"][::-1]).y

    def output(framework, weights):
        built = framework.build(C, K, channel_axis=1)
        built.holder = framework.package.from_canonical(built.holder, weights)
        return framework.numpy(built(framework.tensor(x, "float32"))), framework.package.to_canonical(built.holder)

    y_a, from_a = output(LAYERS[a], weights)
    y_b, _ = output(LAYERS[b], from_a)
    # float32 against float64: the means are below 10 and the taps below 3, so 2**-24 times a few dozen of each other.
    atol = 2**-24 * 1000
    np.testing.assert_allclose(y_a, y, rtol=0, atol=atol)
    np.testing.assert_allclose(y_b, y, rtol=0, atol=atol)
    assert np.abs(flipped - y).max() > 1000 * atol


BAD = {
    "missing": ({}, "'weight' is missing"),
    "misspelt": ({"weights": V}, "'weight' is missing; 'weights' is unexpected"),
    "unexpected": ({"weight": V, "bias": V[:1]}, "'bias' is unexpected"),
    "short": ({"weight": V[:3]}, "'weight' has shape (3,), expected (5,)"),
    "native": ({"weight": V[:, None, None]}, "'weight' has shape (5, 1, 1), expected (5,)"),
    "per-channel": ({"weight": np.ones((C, K))}, "'weight' has shape (6, 5), expected (5,)"),
    "nan": ({"weight": NAN}, "'weight' is not finite"),
    "inf": ({"weight": INF}, "'weight' is not finite"),
    "several": (
        {"weight": NAN[:4], "bias": V, "scale": V},
        "'weight' has shape (4,), expected (5,); 'weight' is not finite; 'bias' is unexpected; 'scale' is unexpected",
    ),
}


def assert_refused(framework, held, weights, error, match):
    before, given = native(framework, held)[0], copy.deepcopy(weights)
    with pytest.raises(error, match=match):
        framework.package.from_canonical(held, weights)
    np.testing.assert_array_equal(native(framework, held)[0], before)
    if isinstance(weights, dict):
        assert list(weights) == list(given)
        jax.tree.map(np.testing.assert_array_equal, weights, given)


@only_layers
@pytest.mark.parametrize(("weights", "faults"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_named_and_nothing_is_changed(framework, weights, faults):
    text = re.escape(f"weights do not fit: {faults}. Nothing was changed.")
    assert_refused(framework, holder(framework), weights, ValueError, text)


@only_layers
@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 65536.0), ("float32", 1e39), ("bfloat16", float(np.finfo(np.float32).max))]
)
def test_what_would_become_infinite_is_refused(framework, dtype, value):
    weights = {"weight": np.where(np.arange(K) == 2, -value, V.astype(np.float64))}
    match = f"'weight' is too large for {dtype}"
    assert_refused(framework, holder(framework, dtype=dtype), weights, ValueError, match)


@only_layers
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_the_largest_value_is_not_refused(framework, dtype):
    largest = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    held = framework.package.from_canonical(holder(framework, dtype=dtype), {"weight": np.full(K, largest)})
    assert (framework.package.to_canonical(held)["weight"] == largest).all()


@only_layers
@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"weight": np.arange(K)}, r"weights must be floating-point arrays\. Received: 'weight' of dtype (int64|I64)"),
        ({"weight": np.ones(K, bool)}, "Received: 'weight' of dtype bool"),
        ({"weight": np.ones(K, complex)}, "Received: 'weight' of dtype complex128"),
        ({"weight": "photo.jpg"}, "Received: 'weight' of dtype <U9"),
        ({"weight": None}, "Received: 'weight' of dtype object"),
        (V, r"weights must be a mapping of names to arrays\. Received: ndarray"),
        ([("weight", V)], r"weights must be a mapping of names to arrays\. Received: list"),
        (None, r"weights must be a mapping of names to arrays\. Received: NoneType"),
    ],
    ids=["int", "bool", "complex", "string", "none", "array", "pairs", "nothing"],
)
def test_what_is_no_dict_of_float_arrays_is_refused(framework, weights, match):
    assert_refused(framework, holder(framework), weights, TypeError, match)


@only_layers
@pytest.mark.parametrize("bad", [3, None, "eca.safetensors", np.ones(3)])
def test_what_holds_no_weights_is_refused(framework, bad):
    match = rf"layer_or_params must be .*eca_multi\.[\w.]*ECA.*Received: {type(bad).__name__}"
    with pytest.raises(TypeError, match=match):
        framework.package.to_canonical(bad)
    with pytest.raises(TypeError, match=match):
        framework.package.from_canonical(bad, {"weight": V})


@only_layers
def test_a_mapping_with_other_parameters_is_refused(framework):
    name = NATIVE_NAMES[framework.kind]
    params = dict(mapping(framework, holder(framework)))
    below = [] if framework.kind == "nnx" else [{"0": params}]  # in nnx that is the kernel of a network's site "0"
    for wrong in ({**params, "bias": params[name]}, {}, *below):
        with pytest.raises(ValueError, match=f"layer_or_params must hold exactly '{name}'"):
            framework.package.to_canonical(wrong)
        with pytest.raises(ValueError, match=f"layer_or_params must hold exactly '{name}'"):
            framework.package.from_canonical(wrong, {"weight": V})


def without_weight():
    torch_package, nnx_package = LAYERS["torch"].package, LAYERS["nnx"].package
    return {
        "torch-lazy": ("torch", torch_package.LazyECA(K), "LazyECA, which has none yet"),
        "torch-lazy-state": ("torch", torch_package.LazyECA(K).state_dict(), "which has none yet"),
        "torch-meta": ("torch", torch_package.ECA(C, K, device="meta"), "meta device, which has none yet"),
        "torch-meta-state": ("torch", torch_package.ECA(C, K, device="meta").state_dict(), "which has none yet"),
        "keras": ("keras", LAYERS["keras"].package.ECA(K), "not built, which has none yet"),
        "nnx": ("nnx", nnx.eval_shape(lambda: nnx_package.ECA(C, K, rngs=nnx.Rngs(0))), "eval_shape, which has none"),
    }


@pytest.mark.keras
@pytest.mark.parametrize("name", without_weight())
def test_a_layer_without_its_weight(name):
    kind, held, match = without_weight()[name]
    package = LAYERS[kind].package
    with pytest.raises(ValueError, match=match):
        package.to_canonical(held)
    with pytest.raises(ValueError, match=match):
        package.from_canonical(held, {"weight": V})


@pytest.mark.only("linen")
def test_linen_shapes_alone_have_no_weight_to_read(framework, rng):
    """They can be loaded into: what from_canonical needs of the old variables is their shape and dtype."""
    x, weights = np.zeros((1, 4, C), np.float32), draw(rng)
    shapes = jax.eval_shape(framework.package.ECA(K).init, jax.random.key(0), x)
    assert_equal(framework.package.to_canonical(framework.package.from_canonical(shapes, weights)), weights)
    with pytest.raises(ValueError, match="which has none yet"):
        framework.package.to_canonical(shapes)
