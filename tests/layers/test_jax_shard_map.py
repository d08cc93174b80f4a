"""ECA inside shard_map, where each device sees its own shard: value and both gradients, against the float64 oracle.

`axis_name` says over which mesh axes the positions are spread, `channel_axis_name` over which the channels are. Whoever
forgets one gets the ECA of a shard; `test_a_forgotten_name_is_wrong` shows that these comparisons would see it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from eca_multi import eca_kernel_size
from eca_multi.flax import linen
from eca_multi.flax.nnx import ECA
from eca_multi.jax import eca
from tests.layers.test_jax_sharding import SHAPE, Job, assert_laid_out_as, assert_within_budget, draw, make_mesh, put


@dataclass(frozen=True)
class Layout:
    mesh: tuple[int, ...]
    x: P
    axis_name: str | tuple[str, ...] | None = None
    channel_axis_name: str | None = None

    @property
    def names(self):
        return {"axis_name": self.axis_name, "channel_axis_name": self.channel_axis_name}

    def kernel(self, shape):
        """A kernel per channel lies where its channel does."""
        return P(None, None, self.channel_axis_name) if shape[2] > 1 else P()


LAYOUTS = {
    "batch": Layout((8,), P("a")),
    "height": Layout((8,), P(None, "a"), "a"),
    "channels": Layout((8,), P(None, None, None, "a"), None, "a"),
    "batch, height": Layout((2, 4), P("a", "b"), "b"),
    "height, width": Layout((4, 2), P(None, "a", "b"), ("a", "b")),
    "height over both": Layout((2, 4), P(None, ("a", "b")), ("a", "b")),
    "height, channels": Layout((2, 4), P(None, "a", None, "b"), "a", "b"),
    "channels, width": Layout((2, 4), P(None, None, "b", "a"), "b", "a"),
    "-, channels": Layout((2, 4), P(None, None, None, "b"), None, "b"),
}
JOBS = [
    Job("k=1", (1, 1, 1)),
    Job("k=3", (3, 1, 1)),
    Job("k=5 per channel", (5, 1, 24), {"gate": "hard_sigmoid"}),
    Job("k=9 circular", (9, 1, 1), {"padding": "circular", "gate": "2sigmoid"}),  # two hops where a device has three
]
# Of eight channels, on eight devices and on two: kernels that reach to the far side, all the way round, and beyond.
FAR = (8, 8, 16, 8)
FAR_JOBS = [
    ("channels", Job("k=7 per channel", (7, 1, 8))),
    ("channels", Job("k=17 circular", (17, 1, 1), {"padding": "circular"})),
    ("channels, width", Job("k=11 circular per channel", (11, 1, 8), {"padding": "circular"})),
    ("channels, width", Job("k=19", (19, 1, 1))),
]


def cases():
    """Every job with space and channels spread, two on each of the other layouts."""
    for name, layout in LAYOUTS.items():
        for job in JOBS if name == "height, channels" else JOBS[1::2]:
            yield pytest.param(layout, job, SHAPE, id=f"{name}: {job.name}")
    for name, job in FAR_JOBS:
        yield pytest.param(LAYOUTS[name], job, FAR, id=f"{name}: {job.name}")


def run(layout, kernel, function, mask=None, check_vma=True, shape=SHAPE):
    """Return x and {"y", "dx", "dw"} of a function of the shards, with the derivative taken around the shard_map."""
    x, w, G, drawn = draw(kernel, shape)
    w_spec, mask_spec = layout.kernel(kernel), P(*layout.x[:3])
    mesh = make_mesh(layout.mesh)
    (x, G), (w,) = put(mesh, layout.x, x, G), put(mesh, w_spec, w)
    masks = put(mesh, mask_spec, drawn) if mask else ()
    specs = (layout.x, w_spec, *(mask_spec for _ in masks))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=layout.x, check_vma=check_vma)

    @jax.jit
    def vjp(x, w, G, *masks):
        y, pull = jax.vjp(lambda x, w: mapped(x, w, *masks), x, w)
        return {"y": y, **dict(zip(("dx", "dw"), pull(G), strict=True))}

    return x, vjp(x, w, G, *masks)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "job", "shape"), list(cases()))
def test_value_and_gradients(layout, job, shape):
    x, got = run(layout, job.kernel, lambda x, w: eca(x, w, **job.options, **layout.names), shape=shape)
    assert_within_budget(got, *draw(job.kernel, shape)[:3], **job.options)
    assert_laid_out_as(got["y"], x)
    assert_laid_out_as(got["dx"], x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["height", "channels"])
def test_without_the_check_of_what_varies(name):
    """check_vma=False transposes collectives by other rules."""
    layout = LAYOUTS[name]
    _, got = run(layout, (5, 1, 1), lambda x, w: eca(x, w, **layout.names), check_vma=False)
    assert_within_budget(got, *draw((5, 1, 1))[:3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch, height", "height, channels"])
def test_mask(name):
    """Each shard has another number of valid positions, so sums and counts are added, not means averaged."""
    layout = LAYOUTS[name]
    _, got = run(layout, (5, 1, 1), lambda x, w, mask: eca(x, w, mask=mask, **layout.names), mask=True)
    x, w, G, mask = draw((5, 1, 1))
    assert_within_budget(got, x, w, G, mask)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch, height", "height, channels"])
def test_gradients_taken_inside(name):
    """As in a training step that is one shard_map. The kernel is on every device, and so is its gradient."""
    layout, kernel = LAYOUTS[name], (5, 1, 1)
    x, w, G, _ = draw(kernel)
    mesh = make_mesh(layout.mesh)

    def step(x, w, G):
        y, pull = jax.vjp(lambda x, w: eca(x, w, **layout.names), x, w)
        dx, dw = pull(G)
        return {"y": y, "dx": dx, "dw": dw}

    specs = {"in_specs": (layout.x, P(), layout.x), "out_specs": {"y": layout.x, "dx": layout.x, "dw": P()}}
    got = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(x, w, G)
    assert_within_budget(got, x, w, G)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "forgotten"), [("height", "axis_name"), ("channels", "channel_axis_name")])
def test_a_forgotten_name_is_wrong(name, forgotten):
    layout, kernel = LAYOUTS[name], (3, 1, 1)
    _, got = run(layout, kernel, lambda x, w: eca(x, w, **{**layout.names, forgotten: None}))
    with pytest.raises(AssertionError, match="y is off"):
        assert_within_budget(got, *draw(kernel)[:3])


@pytest.mark.slow
def test_averaged_means_are_wrong_under_a_mask():
    """The control of test_mask: with pmean of the shards' own masked means it would not pass."""
    layout = LAYOUTS["height"]

    def averaged(x, w, mask):
        mean = jnp.where(mask[..., None], x, 0).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)[:, None]
        pooled = jax.lax.pmean(mean, "a")[:, None]
        _, gate = eca(pooled, w, return_gate=True)
        return x * gate[:, None, None]

    _, got = run(layout, (5, 1, 1), averaged, mask=True)
    x, w, G, mask = draw((5, 1, 1))
    with pytest.raises(AssertionError, match="y is off"):
        assert_within_budget(got, x, w, G, mask)


# --- the layers --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_linen_layer():
    layout = LAYOUTS["height, channels"]
    layer = linen.ECA(9, padding="circular", **layout.names)
    x, w, G, _ = draw((9, 1, 1))
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)) == {"params": {"kernel": (9, 1, 1)}}
    _, got = run(layout, (9, 1, 1), lambda x, w: layer.apply({"params": {"kernel": w}}, x))
    assert_within_budget(got, x, w, G, padding="circular")


@pytest.mark.slow
def test_nnx_layer():
    layout = LAYOUTS["height, channels"]
    layer = ECA(24, 9, padding="circular", **layout.names, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)

    def call(x, w):
        return nnx.merge(graphdef, jax.tree.map(lambda _: w, state))(x)

    _, got = run(layout, (9, 1, 1), call)
    assert_within_budget(got, *draw((9, 1, 1))[:3], padding="circular")


def test_the_rule_counts_the_channels_of_all_devices():
    """Three channels on each of eight devices: the kernel is that of 24."""
    names = LAYOUTS["channels"].names
    kernel = linen.ECA(**names).init(jax.random.key(0), jnp.ones(SHAPE))["params"]["kernel"]
    assert len(kernel) == ECA(24, **names, rngs=nnx.Rngs(0)).kernel_size == eca_kernel_size(24) != eca_kernel_size(3)


# --- what raises ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [eca, linen.ECA, ECA], ids=["jax", "linen", "nnx"])
@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        ({"axis_name": 1}, TypeError, "axis_name must be a string, a tuple of strings or None"),
        ({"axis_name": ("a", None)}, TypeError, "axis_name must be a string, a tuple of strings or None"),
        ({"channel_axis_name": ("a", "b")}, TypeError, "channel_axis_name must be a string or None"),
        ({"axis_name": "a", "channel_axis_name": "a"}, ValueError, "channel_axis_name must be another mesh axis"),
        ({"axis_name": ("a", "b"), "channel_axis_name": "b"}, ValueError, "channel_axis_name must be another mesh"),
    ],
)
def test_bad_names(make, names, error, text):
    arguments = {eca: (np.ones(SHAPE, np.float32), np.ones(3, np.float32)), linen.ECA: (), ECA: (24,)}[make]
    more = {"rngs": nnx.Rngs(0)} if make is ECA else {}
    with pytest.raises(error, match=text):
        make(*arguments, **names, **more)


def test_circular_padding_counts_the_channels_of_all_devices():
    layout = LAYOUTS["channels"]
    function = jax.shard_map(
        lambda x, w: eca(x, w, padding="circular", **layout.names),
        mesh=make_mesh(layout.mesh),
        in_specs=(layout.x, P()),
        out_specs=layout.x,
    )
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    assert jax.eval_shape(function, x, jax.ShapeDtypeStruct((49,), jnp.float32)).shape == SHAPE
    with pytest.raises(ValueError, match=r"kernel_size must be at most .* kernel_size=51 for 24 channels"):
        jax.eval_shape(function, x, jax.ShapeDtypeStruct((51,), jnp.float32))


def test_nnx_counts_the_channels_of_all_devices():
    layout = LAYOUTS["channels"]
    layer = ECA(3, **layout.names, rngs=nnx.Rngs(0))
    function = jax.shard_map(layer, mesh=make_mesh(layout.mesh), in_specs=layout.x, out_specs=layout.x)
    with pytest.raises(ValueError, match=r"x must be of 3 channels. Received: 24 channels"):
        jax.eval_shape(function, jax.ShapeDtypeStruct(SHAPE, jnp.float32))


def test_names_outside_of_shard_map():
    """JAX's own message names the axis that is not there."""
    with pytest.raises(NameError, match="unbound axis name: a"):
        eca(jnp.ones(SHAPE), jnp.ones(3), axis_name="a")
