"""The linen layer as a linen module: what Flax and JAX do to modules and variables works and changes no number."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core, errors
from flax import linen as nn

from eca_multi import eca_kernel_size, reference
from eca_multi.flax.linen import ECA, from_canonical, to_canonical

KEY = jax.random.key(0)
# float64 rounds at 1e-16 and no sum here has more than 500 terms; a step in float32 would be off by 1e-7.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(rng, shape=(3, 7, 5, 12), kernel=(5, 1, 1)):
    """Return x with a mean of its own in each channel, variables with an asymmetric kernel, and a cotangent."""
    x = rng.normal(size=shape) + rng.uniform(-2, 2, shape[-1])
    return x, {"params": {"kernel": rng.normal(size=kernel)}}, rng.normal(size=shape)


def canonical(kernel):
    """(k, 1, 1) to (k,), and (k, 1, C) to (C, k)."""
    kernel = np.asarray(kernel)
    return kernel[:, 0, 0] if kernel.shape[2] == 1 else kernel[:, 0].T


def forward(x, variables, **options):
    return reference.forward(x, canonical(variables["params"]["kernel"]), channel_axis=-1, **options).y


def backward(x, variables, G, **options):
    return reference.backward(x, canonical(variables["params"]["kernel"]), G, channel_axis=-1, **options)


# --- init and apply ----------------------------------------------------------------------------------------------

PARAMETERS = [  # channels, arguments, shape and dtype of the kernel
    (12, {}, (3, 1, 1), "float32"),
    (1, {}, (1, 1, 1), "float32"),
    (200, {}, (5, 1, 1), "float32"),
    (12, {"gamma": 1, "beta": 2}, (5, 1, 1), "float32"),
    (12, {"kernel_size": 7}, (7, 1, 1), "float32"),
    (12, {"shared": False}, (3, 1, 12), "float32"),
    (12, {"param_dtype": jnp.bfloat16}, (3, 1, 1), "bfloat16"),
    (12, {"dtype": jnp.bfloat16}, (3, 1, 1), "float32"),
]


@pytest.mark.parametrize(("channels", "arguments", "shape", "dtype"), PARAMETERS)
def test_init_infers_the_channels(channels, arguments, shape, dtype):
    variables = ECA(**arguments).init(KEY, jnp.ones((2, 5, 3, channels)))
    assert jax.tree.map(lambda a: (a.shape, a.dtype.name), variables) == {"params": {"kernel": (shape, dtype)}}
    bound = shape[0] ** -0.5
    assert (jnp.abs(variables["params"]["kernel"]) <= bound).all()
    assert len(np.unique(np.asarray(variables["params"]["kernel"], np.float32))) > shape[0] // 2


def constant_two(key, shape, dtype):
    return jnp.full(shape, 2, dtype)


@pytest.mark.parametrize(
    ("kernel_init", "value"),
    [
        pytest.param(nn.initializers.ones, 1, id="of Flax"),
        pytest.param(constant_two, 2, id="of a user"),
        pytest.param(nn.with_partitioning(constant_two, (None, None, "model")), 2, id="partitioned"),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_kernel_init_takes_an_initializer_function(kernel_init, value, shared):
    options = {"kernel_size": 5, "shared": shared, "param_dtype": jnp.bfloat16}
    layer = ECA(kernel_init=kernel_init, **options)
    boxed = layer.init(KEY, jnp.ones((2, 5, 12)))["params"]["kernel"]
    kernel = core.meta.unbox(boxed)
    assert isinstance(boxed, nn.Partitioned) == (value == 2 and kernel_init is not constant_two)
    assert (kernel.shape, kernel.dtype) == ((5, 1, 1 if shared else 12), jnp.bfloat16)
    np.testing.assert_array_equal(kernel, np.full(kernel.shape, value, jnp.bfloat16))
    assert layer.kernel_init is kernel_init
    # The control: the default draws numbers below 5**-0.5.
    drawn = ECA(**options).init(KEY, jnp.ones((2, 5, 12)))["params"]["kernel"]
    assert np.abs(np.asarray(drawn, np.float32)).max() < 0.5


def test_kernel_init_takes_a_function_with_any_gate():
    """The name "identity" needs 2sigmoid; what a function returns is the user's choice."""
    x = jnp.ones((2, 5, 12))
    y, _ = ECA(kernel_init=nn.initializers.zeros).init_with_output(KEY, x)
    np.testing.assert_array_equal(y, x / 2)  # sigmoid(0)


def test_kernel_init_takes_no_array():
    with pytest.raises(TypeError, match="kernel_init must be 'uniform' or 'identity' or an initializer function"):
        ECA(kernel_init=3.0)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_weights_that_exist_keep_their_size(k, rng):
    """The rule gives another size for twelve channels; a checkpoint's kernel is used as it is."""
    x, variables, _ = draw(rng, kernel=(k, 1, 1))
    assert eca_kernel_size(12, gamma=0.5) not in (1, 3, 7)
    x, variables = x.astype(np.float32), jax.tree.map(lambda a: a.astype(np.float32), variables)
    layer = ECA(gamma=0.5)
    np.testing.assert_allclose(layer.apply(variables, x), forward(x, variables), rtol=1e-5, atol=1e-5)
    assert ECA(gamma=0.5).init(KEY, x)["params"]["kernel"].shape == (eca_kernel_size(12, gamma=0.5), 1, 1)


def test_identity_init_returns_x(rng):
    x = jnp.asarray(draw(rng)[0])
    y, variables = ECA(gate="2sigmoid", kernel_init="identity").init_with_output(KEY, x)
    assert not variables["params"]["kernel"].any()
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (2, 9, 12)), (1, (2, 12, 9)), (2, (2, 3, 12, 4)), (-2, (2, 3, 4, 12, 5))]
)
@pytest.mark.usefixtures("x64")
def test_channel_axis_and_rank(axis, shape, rng):
    x = rng.normal(size=shape) + 1.0
    y, variables = ECA(channel_axis=axis).init_with_output(KEY, x)
    expected = reference.forward(x, canonical(variables["params"]["kernel"]), channel_axis=axis).y
    np.testing.assert_allclose(y, expected, **FLOAT64)


def test_apply_refuses_a_kernel_per_channel_of_other_channels():
    variables = ECA(shared=False).init(KEY, jnp.ones((2, 5, 12)))
    with pytest.raises(errors.ScopeParamShapeError, match="kernel"):
        ECA(shared=False).apply(variables, jnp.ones((2, 5, 13)))


def test_apply_changes_no_collection(rng):
    x, variables, _ = draw(rng)
    _, changed = ECA(5).apply(variables, x.astype("float32"), mutable=True)
    assert list(changed) == ["params"]


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
    layer = ECA(dtype=dtype, param_dtype=param_dtype)
    out, variables = jax.eval_shape(layer.init_with_output, KEY, jax.ShapeDtypeStruct((2, 5, 7, 12), x))
    assert (out.dtype, variables["params"]["kernel"].dtype) == (y, param_dtype)


def test_dtype_rounds_x_and_not_the_kernel(rng):
    x, variables, _ = draw(rng)
    x, variables = jnp.asarray(x, "float32"), jax.tree.map(lambda a: jnp.asarray(a, "float32"), variables)
    rounded = ECA(5).apply(variables, x.astype("bfloat16"))
    np.testing.assert_array_equal(ECA(5, dtype=jnp.bfloat16).apply(variables, x), rounded)


# --- transformations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(5, 1, 1), (5, 1, 12)], ids=["shared", "per channel"])
@pytest.mark.usefixtures("x64")
def test_jit_and_grad(kernel, rng):
    x, variables, G = draw(rng, kernel=kernel)
    layer = ECA(5, shared=kernel[2] == 1)
    y = jax.jit(layer.apply)(variables, x)
    grads, dx = jax.jit(jax.grad(lambda v, x: (G * layer.apply(v, x)).sum(), (0, 1)))(variables, x)
    expected = backward(x, variables, G)
    np.testing.assert_allclose(y, forward(x, variables), **FLOAT64)
    np.testing.assert_allclose(dx, expected.dx, **FLOAT64)
    np.testing.assert_allclose(canonical(grads["params"]["kernel"]), expected.dw, **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_jvp_and_hessian(rng):
    x, variables, G = draw(rng)
    layer, tangent = ECA(5), draw(rng)[1]

    def loss(variables):
        return (G * layer.apply(variables, x)).sum()

    def slope(variables):
        return jax.jvp(loss, (variables,), (tangent,))[1]

    first, reverse = jax.jit(jax.value_and_grad(slope))(variables)
    hessian = jax.jit(jax.hessian(loss))(variables)["params"]["kernel"]["params"]["kernel"]
    w_dot, reverse = tangent["params"]["kernel"], reverse["params"]["kernel"]
    np.testing.assert_allclose(first, backward(x, variables, G).dw @ canonical(w_dot), **FLOAT64)
    np.testing.assert_allclose(np.tensordot(hessian, w_dot, 3), reverse, **FLOAT64)


def test_one_trace_for_equal_modules(rng):
    x, variables, _ = draw(rng)
    traced = []

    def apply(layer, variables, x):
        traced.append(layer)
        return layer.apply(variables, x)

    jitted = jax.jit(apply, static_argnums=0)
    for scale in (1.0, 2.0):
        jitted(ECA(5), jax.tree.map(lambda a, s=scale: s * a, variables), x)
    assert traced == [ECA(5)]
    jitted(ECA(5, padding="circular"), variables, x)
    assert traced == [ECA(5), ECA(5, padding="circular")]


@pytest.mark.usefixtures("x64")
def test_vmap_over_kernels(rng):
    x, _, _ = draw(rng)
    layers = nn.vmap(ECA, in_axes=None, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=4)
    y, variables = layers(5).init_with_output(KEY, x)
    kernels = variables["params"]["kernel"]
    assert kernels.shape == (4, 5, 1, 1)
    assert len(np.unique(kernels)) == 20
    expected = [forward(x, {"params": {"kernel": kernel}}) for kernel in kernels]
    np.testing.assert_allclose(y, expected, **FLOAT64)


class Step(nn.Module):
    """One layer of a scan."""

    @nn.compact
    def __call__(self, x, mask):
        return ECA(5, param_dtype=jnp.float64)(x, mask), None


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", [Step, nn.remat(Step)], ids=["plain", "remat"])
def test_scan_over_layers(step, rng):
    x, _, G = draw(rng)
    mask = rng.uniform(size=(3, 7, 5)) < 0.6
    layers = nn.scan(
        step,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=3,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )()
    variables = layers.init(KEY, x, mask)
    ((name, params),) = variables["params"].items()
    assert (name, params["kernel"].shape) == ("ECA_0", (3, 5, 1, 1))

    def loss(variables):
        y = layers.apply(variables, x, mask)[0]
        return (G * y).sum(), y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(variables)
    inputs, dx = [x], G
    for kernel in params["kernel"]:
        inputs.append(forward(inputs[-1], {"params": {"kernel": kernel}}, mask=mask))
    np.testing.assert_allclose(y, inputs[-1], **FLOAT64)
    for i in (2, 1, 0):
        expected = backward(inputs[i], {"params": {"kernel": params["kernel"][i]}}, dx, mask=mask)
        got = canonical(grads["params"]["ECA_0"]["kernel"][i])
        np.testing.assert_allclose(got, expected.dw, **FLOAT64)
        dx = expected.dx


@pytest.mark.usefixtures("x64")
def test_remat_of_the_layer(rng):
    x, variables, G = draw(rng)
    grads = jax.jit(jax.grad(lambda v: (G * nn.remat(ECA)(5).apply(v, x)).sum()))(variables)
    np.testing.assert_allclose(canonical(grads["params"]["kernel"]), backward(x, variables, G).dw, **FLOAT64)


# --- the module as an object -------------------------------------------------------------------------------------


def test_eval_shape_of_init_computes_nothing():
    huge = jax.ShapeDtypeStruct((512, 4096, 4096, 512), jnp.bfloat16)
    y, variables = jax.eval_shape(ECA().init_with_output, KEY, huge)
    assert (y.shape, y.dtype) == (huge.shape, huge.dtype)
    assert variables == {"params": {"kernel": jax.ShapeDtypeStruct((5, 1, 1), jnp.float32)}}


def test_tabulate_shows_the_kernel():
    table = ECA().tabulate(KEY, jnp.ones((2, 5, 7, 12)), console_kwargs={"width": 120, "force_terminal": False})
    assert "float32[3,1,1]" in table
    assert "Total Parameters: 3" in table


OTHERS = [{"kernel_size": 5}, {"padding": "circular"}, {"gate": jnp.tanh}, {"dtype": jnp.bfloat16}, {"channel_axis": 1}]


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: next(iter(change)))
def test_equality_and_hash(change):
    assert ECA(**change) == ECA(**change)
    assert hash(ECA(**change)) == hash(ECA(**change))
    assert ECA(**change) != ECA()
    assert ECA().clone(**change) == ECA().copy(**change) == ECA(**change)


@pytest.mark.parametrize(
    "duplicate",
    [lambda layer: pickle.loads(pickle.dumps(layer)), copy.copy, copy.deepcopy, lambda layer: layer.clone()],
    ids=["pickle", "copy", "deepcopy", "clone"],
)
def test_duplicates_compute_the_same(duplicate, rng):
    x, variables, _ = draw(rng)
    layer = ECA(5, padding="circular", gate="hard_sigmoid", dtype=jnp.bfloat16)
    assert duplicate(layer) == layer
    x, variables = jnp.asarray(x, "float32"), jax.tree.map(jnp.asarray, variables)
    np.testing.assert_array_equal(duplicate(layer).apply(variables, x), layer.apply(variables, x))


def test_clone_is_checked_as_the_constructor_is():
    with pytest.raises(ValueError, match="kernel_size must be an odd positive integer"):
        ECA().clone(kernel_size=4)


class InSetup(nn.Module):
    def setup(self):
        self.first = ECA(5)
        self.second = ECA(padding="circular")

    def __call__(self, x, mask=None):
        return self.second(self.first(x, mask), mask)


class InCompact(nn.Module):
    @nn.compact
    def __call__(self, x, mask=None):
        return ECA(padding="circular", name="second")(ECA(5, name="first")(x, mask), mask)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("outer", [InSetup, InCompact])
def test_inside_another_module(outer, rng):
    x, _, _ = draw(rng)
    mask = rng.uniform(size=(3, 7, 5)) < 0.6
    y, variables = outer().init_with_output(KEY, x, mask)
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes == {"params": {"first": {"kernel": (5, 1, 1)}, "second": {"kernel": (3, 1, 1)}}}
    middle = forward(x, {"params": variables["params"]["first"]}, mask=mask)
    expected = forward(middle, {"params": variables["params"]["second"]}, mask=mask, padding="circular")
    np.testing.assert_allclose(y, expected, **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_bind(rng):
    x, variables, _ = draw(rng)
    np.testing.assert_allclose(ECA(5).bind(variables)(x), forward(x, variables), **FLOAT64)


# --- weights in Flax's own containers ----------------------------------------------------------------------------

WEIGHT = {"weight": np.array([0.5, -0.25, 0.125])}
CONTAINERS = {
    "dict": lambda kernel: {"params": {"kernel": kernel}},
    "params alone": lambda kernel: {"kernel": kernel},
    "FrozenDict": lambda kernel: core.freeze({"params": {"kernel": kernel}}),
    "FrozenDict of params": lambda kernel: core.freeze({"kernel": kernel}),
    "Partitioned": lambda kernel: {"params": {"kernel": nn.Partitioned(kernel, (None, None, "model"))}},
    "LogicallyPartitioned": lambda kernel: {"kernel": nn.LogicallyPartitioned(kernel, ("taps", None, None))},
    "other collections": lambda kernel: {"params": {"kernel": kernel}, "batch_stats": {"mean": jnp.ones(3)}},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_from_canonical_keeps_the_container(container, dtype):
    old = container(jnp.zeros((3, 1, 1), dtype))
    new = from_canonical(old, WEIGHT)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, old)
    np.testing.assert_array_equal(to_canonical(new)["weight"], WEIGHT["weight"])  # exact in bfloat16
    assert not to_canonical(old)["weight"].any()  # the old ones are as they were


@pytest.mark.usefixtures("x64")
def test_partitioned_variables_apply(rng):
    x, variables, _ = draw(rng)
    boxed = {"params": {"kernel": nn.Partitioned(variables["params"]["kernel"], (None, None, None))}}
    np.testing.assert_allclose(ECA(5).apply(boxed, x), forward(x, variables), **FLOAT64)


def test_init_leaves_no_metadata():
    variables = ECA().init(KEY, jnp.ones((2, 5, 12)))
    assert isinstance(variables["params"]["kernel"], jax.Array)
    assert nn.get_partition_spec(variables) == {"params": {"kernel": jax.sharding.PartitionSpec()}}


def test_stacked_kernels_are_no_single_layer():
    """A scan's (layers, k, 1, 1) is not one layer's weight: reading it as one would drop taps."""
    stacked = {"params": {"kernel": jnp.arange(15.0).reshape(5, 3, 1, 1)}}
    with pytest.raises(ValueError, match=r"\(5, 3, 1, 1\)"):
        to_canonical(stacked)
    with pytest.raises(ValueError, match=r"\(5, 3, 1, 1\)"):
        from_canonical(stacked, {"weight": np.ones((5, 3))})
