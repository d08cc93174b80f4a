"""The nnx layer as an nnx module: what Flax and JAX do to modules and their state works and changes no number."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads

from eca_multi import reference
from eca_multi.flax import linen
from eca_multi.flax.nnx import ECA, ECAParam, from_canonical, to_canonical

# float64 rounds at 1e-16 and no sum here has more than 500 terms; a step in float32 would be off by 1e-7.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(rng, shape=(3, 7, 5, 12)):
    """Return x with a mean of its own in each channel, and a cotangent."""
    return rng.normal(size=shape) + rng.uniform(-2, 2, shape[-1]), rng.normal(size=shape)


def build(kernel_size=5, seed=0, **options):
    return ECA(12, kernel_size, param_dtype=jnp.float64, rngs=nnx.Rngs(seed), **options)


def canonical(kernel):
    """(k, 1, 1) to (k,), and (k, 1, C) to (C, k)."""
    kernel = np.asarray(kernel)
    return kernel[:, 0, 0] if kernel.shape[2] == 1 else kernel[:, 0].T


def forward(x, kernel, **options):
    return reference.forward(x, canonical(kernel), channel_axis=-1, **options).y


def backward(x, kernel, G, **options):
    return reference.backward(x, canonical(kernel), G, channel_axis=-1, **options)


# --- the parameter -----------------------------------------------------------------------------------------------

PARAMETERS = [  # channels, arguments of both layers
    (12, {}),
    (1, {}),
    (200, {}),
    (12, {"gamma": 1, "beta": 2}),
    (12, {"kernel_size": 7}),
    (12, {"shared": False}),
    (12, {"param_dtype": jnp.bfloat16}),
    (12, {"dtype": jnp.bfloat16}),
]


@pytest.mark.parametrize(("channels", "arguments"), PARAMETERS)
def test_the_kernel_is_of_linens_shape_and_dtype(channels, arguments):
    layer = ECA(channels, rngs=nnx.Rngs(0), **arguments)
    variables = jax.eval_shape(linen.ECA(**arguments).init, jax.random.key(0), jnp.ones((2, 5, channels)))
    twin = variables["params"]["kernel"]
    assert type(layer.kernel) is ECAParam
    assert (layer.kernel.shape, layer.kernel.dtype) == (twin.shape, twin.dtype)
    assert layer.kernel_size == twin.shape[0]
    assert (jnp.abs(layer.kernel[...]) <= layer.kernel_size**-0.5).all()


@pytest.mark.usefixtures("x64")
def test_the_state_is_one_kernel():
    state = nnx.state(build())
    assert [path for path, _ in nnx.to_flat_state(state)] == [("kernel",)]
    assert issubclass(ECAParam, nnx.Param)


@pytest.mark.parametrize("streams", [{"params": 3}, {"default": 3}], ids=["params", "default"])
def test_rngs(streams):
    """One draw for each layer, of the params stream or else of the default one."""
    rngs = nnx.Rngs(**streams)
    first, second = ECA(12, rngs=rngs), ECA(12, rngs=rngs)
    again = ECA(12, rngs=nnx.Rngs(**streams))
    np.testing.assert_array_equal(first.kernel[...], again.kernel[...])
    assert (first.kernel[...] != second.kernel[...]).all()


def test_identity_init_returns_x(rng):
    x = jnp.asarray(draw(rng)[0], "float32")
    np.testing.assert_array_equal(ECA(12, gate="2sigmoid", init="identity", rngs=nnx.Rngs(0))(x), x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (2, 9, 12)), (1, (2, 12, 9)), (2, (2, 3, 12, 4)), (-2, (2, 3, 4, 12, 5))]
)
def test_channel_axis_and_rank(axis, shape, rng):
    layer, x = build(channel_axis=axis), rng.normal(size=shape) + 1.0
    expected = reference.forward(x, canonical(layer.kernel), channel_axis=axis).y
    np.testing.assert_allclose(layer(x), expected, **FLOAT64)


def test_other_channels_than_built_for():
    with pytest.raises(ValueError, match=r"x must be of 12 channels. Received: 13 channels at axis 2"):
        jax.jit(ECA(12, rngs=nnx.Rngs(0)))(jnp.ones((2, 5, 13)))


DTYPES = [  # of x, the module's dtype, param_dtype, of y
    ("float32", None, "float32", "float32"),
    ("bfloat16", None, "float32", "bfloat16"),
    ("float16", None, "float32", "float16"),
    ("float32", None, "bfloat16", "float32"),
    ("bfloat16", None, "bfloat16", "bfloat16"),
    ("float32", "bfloat16", "float32", "bfloat16"),
    ("bfloat16", "float32", "float32", "float32"),
    ("float32", "float16", "float32", "float16"),
]


@pytest.mark.parametrize(("x", "dtype", "param_dtype", "y"), DTYPES)
def test_output_dtype(x, dtype, param_dtype, y):
    layer = ECA(12, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    out = nnx.eval_shape(lambda layer, x: layer(x), layer, jax.ShapeDtypeStruct((2, 5, 7, 12), x))
    assert (out.dtype, layer.kernel.dtype) == (y, param_dtype)


# --- transformations ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per channel"])
def test_jit_and_grad(shared, rng):
    (x, G), layer = draw(rng), build(shared=shared)

    @nnx.jit
    def step(layer, x):
        return layer(x), nnx.grad(lambda layer, x: (G * layer(x)).sum(), argnums=(0, 1))(layer, x)

    y, (grads, dx) = step(layer, x)
    expected = backward(x, layer.kernel, G)
    np.testing.assert_allclose(y, forward(x, layer.kernel), **FLOAT64)
    np.testing.assert_allclose(dx, expected.dx, **FLOAT64)
    np.testing.assert_allclose(canonical(grads["kernel"]), expected.dw, **FLOAT64)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_jvp_and_hessian(rng):
    """On the split layer, with JAX's own transformations."""
    (x, G), w_dot = draw(rng), rng.normal(size=(5, 1, 1))
    graph, state = nnx.split(build())

    def loss(kernel):
        return (G * nnx.merge(graph, nnx.State({"kernel": state["kernel"].replace(kernel)}))(x)).sum()

    def slope(kernel):
        return jax.jvp(loss, (kernel,), (w_dot,))[1]

    kernel = state["kernel"][...]
    first, second = jax.jit(jax.value_and_grad(slope))(kernel)
    np.testing.assert_allclose(first, backward(x, kernel, G).dw @ canonical(w_dot), **FLOAT64)
    np.testing.assert_allclose(np.tensordot(jax.jit(jax.hessian(loss))(kernel), w_dot, 3), second, **FLOAT64)
    check_grads(jax.jit(loss), (kernel,), order=2)


def test_one_trace_for_new_weights(rng):
    x, _ = draw(rng)
    traced = []

    @nnx.jit
    def apply(layer, x):
        traced.append(layer.padding)
        return layer(x)

    for seed in (0, 1, 2):
        apply(ECA(12, rngs=nnx.Rngs(seed)), x)
    assert traced == ["zeros"]
    apply(ECA(12, padding="circular", rngs=nnx.Rngs(0)), x)
    assert traced == ["zeros", "circular"]


def stack(length):
    """Return `length` layers as one, their kernels stacked along a first axis."""

    @nnx.split_rngs(splits=length)
    @nnx.vmap
    def create(rngs):
        return ECA(12, 5, param_dtype=jnp.float64, rngs=rngs)

    return create(nnx.Rngs(0))


@pytest.mark.usefixtures("x64")
def test_vmap_over_layers(rng):
    (x, _), layers = draw(rng), stack(4)
    assert layers.kernel.shape == (4, 5, 1, 1)
    assert len(np.unique(layers.kernel[...])) == 20
    y = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(layers, x)
    np.testing.assert_allclose(y, [forward(x, kernel) for kernel in layers.kernel[...]], **FLOAT64)


def step(layer, x):
    """One layer of a scan."""
    return layer(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("body", [step, nnx.remat(step)], ids=["plain", "remat"])
def test_scan_over_layers(body, rng):
    (x, G), layers = draw(rng), stack(3)

    def loss(layers):
        y = nnx.scan(lambda x, layer: body(layer, x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, layers)
        return (G * y).sum(), y

    grads, y = nnx.jit(nnx.grad(loss, has_aux=True))(layers)
    kernels, inputs, dx = layers.kernel[...], [x], G
    for kernel in kernels:
        inputs.append(forward(inputs[-1], kernel))
    np.testing.assert_allclose(y, inputs[-1], **FLOAT64)
    for i in (2, 1, 0):
        expected = backward(inputs[i], kernels[i], dx)
        np.testing.assert_allclose(canonical(grads["kernel"][i]), expected.dw, **FLOAT64)
        dx = expected.dx


@pytest.mark.usefixtures("x64")
def test_kernel_size_of_stacked_layers():
    assert stack(4).kernel_size == 5


@pytest.mark.usefixtures("x64")
def test_stacked_layers_are_no_single_layer():
    """Reading (layers, k, 1, 1) as one layer's weight would drop taps."""
    with pytest.raises(ValueError, match=r"\(4, 5, 1, 1\)"):
        to_canonical(stack(4))
    with pytest.raises(ValueError, match=r"\(4, 5, 1, 1\)"):
        from_canonical(stack(4), {"weight": np.ones((4, 5))})


# --- training ----------------------------------------------------------------------------------------------------


class Net(nnx.Module):
    """An ECA layer between parameters of another type."""

    def __init__(self, rngs):
        self.first = nnx.Linear(12, 12, param_dtype=jnp.float64, rngs=rngs)
        self.eca = build(seed=1)
        self.norm = nnx.BatchNorm(12, use_running_average=True, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.eca(self.first(x)))


def loss_of(G):
    return lambda net, x: (G * net(x)).mean()


@pytest.mark.usefixtures("x64")
def test_optimizer_step(rng):
    (x, G), layer = draw(rng), build()
    optimizer = nnx.Optimizer(layer, optax.sgd(0.5), wrt=nnx.Param)
    before = layer.kernel[...]

    @nnx.jit
    def train(layer, optimizer, x):
        optimizer.update(layer, nnx.grad(loss_of(G))(layer, x))

    train(layer, optimizer, x)
    expected = canonical(before) - 0.5 * backward(x, before, G / G.size).dw
    np.testing.assert_allclose(canonical(layer.kernel), expected, **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_wrt_eca_param_trains_only_the_kernel(rng):
    (x, G), net = draw(rng), Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(0.1), wrt=ECAParam)
    before = nnx.to_flat_state(jax.tree.map(jnp.copy, nnx.state(net)))

    @nnx.jit
    def train(net, optimizer, x):
        grads = nnx.grad(loss_of(G), argnums=nnx.DiffState(0, ECAParam))(net, x)
        optimizer.update(net, grads)
        return grads

    grads = train(net, optimizer, x)
    assert [path for path, _ in nnx.to_flat_state(grads)] == [("eca", "kernel")]
    after = dict(nnx.to_flat_state(nnx.state(net)))
    changed = [path for path, value in before if (value[...] != after[path][...]).any()]
    assert changed == [("eca", "kernel")]


# --- the module as a graph ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_split_by_type_and_merge(rng):
    (x, _), net = draw(rng), Net(nnx.Rngs(0))
    graph, kernels, others, rest = nnx.split(net, ECAParam, nnx.Param, ...)
    assert [path for path, _ in nnx.to_flat_state(kernels)] == [("eca", "kernel")]
    assert ("eca", "kernel") not in dict(nnx.to_flat_state(others))
    np.testing.assert_array_equal(nnx.merge(graph, kernels, others, rest)(x), net(x))


@pytest.mark.usefixtures("x64")
def test_state_and_update(rng):
    (x, _), layer = draw(rng), build()
    doubled = jax.tree.map(lambda a: 2 * a, nnx.state(layer))
    kernel = layer.kernel[...]
    nnx.update(layer, doubled)
    assert type(layer.kernel) is ECAParam
    np.testing.assert_allclose(layer(x), forward(x, 2 * kernel), **FLOAT64)


DUPLICATES = {
    "clone": nnx.clone,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "split and merge": lambda layer: nnx.merge(*nnx.split(layer), copy=True),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_duplicates_compute_the_same_and_share_nothing(duplicate, rng):
    (x, _), layer = draw(rng), build(padding="circular", gate="2sigmoid", channel_axis=-1)
    twin = duplicate(layer)
    before = layer(x)
    np.testing.assert_array_equal(twin(x), before)
    assert (type(twin.kernel), twin.kernel_size) == (ECAParam, 5)
    twin.kernel[...] = jnp.zeros((5, 1, 1))
    np.testing.assert_array_equal(layer(x), before)


@pytest.mark.usefixtures("x64")
def test_equal_layers_have_equal_graphs():
    first, second, other = (nnx.graphdef(layer) for layer in (build(), build(seed=1), build(gate="hard_sigmoid")))
    assert first == second
    assert hash(first) == hash(second)
    assert first != other


def test_eval_shape_allocates_nothing():
    layer = nnx.eval_shape(lambda: ECA(2**40, rngs=nnx.Rngs(0)))
    assert layer.kernel.get_value() == jax.ShapeDtypeStruct((21, 1, 1), jnp.float32)
    assert layer.kernel_size == 21
    per_channel = nnx.eval_shape(lambda: ECA(2**40, shared=False, rngs=nnx.Rngs(0)))  # 88 TB of float32
    assert per_channel.kernel.shape == (21, 1, 2**40)


def test_from_canonical_changes_the_layer_or_returns_a_state():
    weights = {"weight": np.array([0.5, -0.25, 0.125])}
    layer = ECA(12, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    before, param = nnx.state(layer), layer.kernel
    old = to_canonical(before)["weight"]
    new = from_canonical(before, weights)
    assert jax.tree.structure(new) == jax.tree.structure(before)
    assert new["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(to_canonical(layer)["weight"], old)
    assert from_canonical(layer, weights) is layer
    assert layer.kernel is param
    np.testing.assert_array_equal(to_canonical(layer)["weight"], weights["weight"])  # exact in bfloat16


# --- bridges to linen --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_to_linen(rng):
    x, _ = draw(rng)
    module = nnx.bridge.to_linen(ECA, 12, 5, padding="circular", param_dtype=jnp.float64)
    y, variables = module.init_with_output(jax.random.key(0), x)
    ((_, names),) = variables.items()  # flax calls the collection ECAParam, after the parameter's type
    assert list(names) == ["kernel"]
    np.testing.assert_allclose(y, forward(x, names["kernel"], padding="circular"), **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_from_linen(rng):
    x, _ = draw(rng)
    module = linen.ECA(5, padding="circular", param_dtype=jnp.float64)
    layer = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)
    np.testing.assert_allclose(layer(x), forward(x, layer.kernel, padding="circular"), **FLOAT64)
