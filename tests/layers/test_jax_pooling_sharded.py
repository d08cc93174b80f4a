"""`pool_axes` and `causal_axis` of jax's `eca` over eight devices: sharded arrays and `shard_map`, by the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eca_multi import reference
from eca_multi.flax import linen
from eca_multi.jax import eca

SHAPE = (4, 8, 8, 4, 24)  # (N, T, H, W, C)
FRAMES, CAUSAL = {"pool_axes": (2, 3)}, {"causal_axis": 1}
ROWS = {"pool_axes": (1, 3), "causal_axis": 1}
# Sums of at most 256 terms of size 1 in float32, in any order, and slopes below 1: errors near 1e-6.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def make_mesh(kind=AxisType.Auto):
    return jax.make_mesh((2, 4), ("a", "b"), (kind, kind), devices=jax.devices("cpu"))


def draw():
    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPE) + rng.uniform(-2, 2, SHAPE[-1])
    w, G = rng.uniform(-0.7, 0.7, 9), rng.normal(size=SHAPE)
    return *(array.astype(np.float32) for array in (x, w, G)), rng.uniform(size=SHAPE[:-1]) < 0.6


def vjp(x, w, G, mask=None, **options):
    y, pull = jax.vjp(lambda x, w: eca(x, w, mask=mask, residual=x, **options), x, w)
    return (y, *pull(G))


def assert_right(got, mask=None, **options):
    x, w, G, _ = draw()
    options |= {"channel_axis": -1, "mask": mask}
    back = reference.backward(x, w, G, **options)
    np.testing.assert_allclose(got[0], reference.forward(x, w, residual=x, **options).y, **CLOSE)
    np.testing.assert_allclose(got[1], back.dx + G, **CLOSE)
    np.testing.assert_allclose(got[2], back.dw, rtol=1e-5, atol=1e-5 * np.abs(back.dw).max())


LAYOUTS = {  # of x, the options, the names inside shard_map; the causal axis, where there is one, on one device
    "time kept and spread": (P("a", "b"), FRAMES, {}),
    "frames spread": (P(None, "a", "b"), FRAMES, {"axis_name": "b"}),
    "causal, height spread": (P("a", None, "b"), CAUSAL, {"axis_name": "b"}),
    "causal, height and channels spread": (P(None, None, "a", None, "b"), CAUSAL, {"axis_name": "a"}),
    "causal, rows kept and spread": (P(None, None, "a", "b"), ROWS, {"axis_name": "b"}),
}
QUICK = "causal, height and channels spread"
by_default = [pytest.param(*LAYOUTS[n], id=n, marks=[] if n == QUICK else pytest.mark.slow) for n in LAYOUTS]
each_layout = pytest.mark.parametrize(("layout", "options", "names"), by_default)
masked = pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "masked"])


@each_layout
@masked
def test_shard_map(layout, options, names, masked):
    x, w, G, mask = draw()
    mask = mask if masked else None
    if len(layout) == 5:
        names = names | {"channel_axis_name": layout[4]}

    def step(x, w, G, *mask):
        return vjp(x, w, G, *mask, **options, **names)

    specs = (layout, P(), layout, *([P(*layout[:4])] if masked else []))
    got = jax.jit(jax.shard_map(step, mesh=make_mesh(), in_specs=specs, out_specs=(layout, layout, P())))(
        x, w, G, *([mask] if masked else [])
    )
    assert_right(got, mask, **options)


@each_layout
@pytest.mark.parametrize("kind", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)])
def test_sharded_arrays(layout, options, names, kind):
    x, w, G, mask = draw()
    mesh = make_mesh(kind)
    with jax.set_mesh(mesh):
        xs, Gs = jax.device_put((x, G), NamedSharding(mesh, layout))
        ws, ms = (jax.device_put(a, NamedSharding(mesh, s)) for a, s in ((w, P()), (mask, P(*layout[:4]))))
        got = jax.jit(lambda *a: vjp(*a, **options))(xs, ws, Gs, ms)
    assert_right(got, mask, **options)
    assert got[0].sharding.is_equivalent_to(xs.sharding, 5)


def test_a_causal_axis_that_is_spread_as_a_sharded_array_is_right():
    """XLA moves what a running sum needs; it is no layout to choose."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 32, 8)).astype(np.float32), np.ones(3, np.float32)
    mesh = make_mesh()
    spread = jax.device_put(x, NamedSharding(mesh, P("a", "b")))
    y = jax.jit(lambda x, w: eca(x, w, causal_axis=1))(spread, w)
    np.testing.assert_allclose(y, reference.forward(x, w, causal_axis=1, channel_axis=-1).y, **CLOSE)


@pytest.mark.parametrize("call", [eca, lambda x, w, **o: linen.ECA(3, **o).apply({"params": {"kernel": w}}, x)])
def test_a_causal_axis_over_axis_name_is_refused(call):
    x, w = jax.ShapeDtypeStruct((2, 32, 8), jnp.float32), jax.ShapeDtypeStruct((3, 1, 1), jnp.float32)
    function = jax.shard_map(
        lambda x, w: call(x, w, causal_axis=1, axis_name="b"),
        mesh=make_mesh(),
        in_specs=(P("a", "b"), P()),
        out_specs=P("a", "b"),
    )
    text = r"axis_name must be None where the mean runs along a single axis. Received: axis_name='b' with causal_axis=1"
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(function, x, w)


def test_a_causal_axis_that_is_spread_without_a_name_is_wrong():
    """The control: each device takes its shard for the start of time."""
    x, w = draw()[0][:, :, 0, 0], np.ones(3, np.float32)
    function = jax.shard_map(
        lambda x, w: eca(x, w, causal_axis=1), mesh=make_mesh(), in_specs=(P("a", "b"), P()), out_specs=P("a", "b")
    )
    assert np.abs(function(x, w) - reference.forward(x, w, causal_axis=1, channel_axis=-1).y).max() > 1e-2
