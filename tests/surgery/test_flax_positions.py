"""Positions followed through a jaxpr: what is proved causal or apart, and that no proof says more than is so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from eca_multi.flax._jaxpr.positions import positions
from eca_multi.flax._jaxpr.tags import tag, tag_input

SEQUENCE, VIDEO = (2, 8, 3), (2, 6, 5, 4, 3)
KEY = jax.random.key(0)
NOT_KNOWN = "not known"


def conv(*args, **options):
    return layer(nn.Conv(*args, **options))


def layer(module):
    return lambda x: module.init_with_output({"params": KEY, "dropout": KEY}, x)[0]


def chain(*functions):
    def run(x):
        for function in functions:
            x = function(x)
        return x

    return run


def late(x, by=1):
    return jnp.pad(x, ((0, 0), (by, 0), (0, 0)))[:, : x.shape[1]]


def wavenet(x):
    for dilation in (1, 2):
        y = conv(6, (2,), padding="CAUSAL", kernel_dilation=dilation)(x)
        a, b = jnp.split(y, 2, -1)
        x = x + conv(3, (1,))(jnp.tanh(a) * nn.sigmoid(b))
    return nn.softmax(nn.LayerNorm().init_with_output(KEY, x)[0])


def running_sum(x, reverse=False):
    return lax.scan(lambda c, a: (c + a, 2 * c + a), jnp.zeros((2, 3)), x.swapaxes(0, 1), reverse=reverse)[1].swapaxes(
        0, 1
    )


def buffered(x):
    """A streaming convolution: the last positions in a buffer that a scan carries."""

    def step(buffer, a):
        buffer = jnp.concatenate([buffer[1:], a[None]])
        return buffer, jnp.tensordot(jnp.arange(1.0, 4), buffer, 1)

    return lax.scan(step, jnp.zeros((3, 2, 3)), x.swapaxes(0, 1))[1].swapaxes(0, 1)


def last_state(x):
    return x + lax.scan(lambda c, a: (c + a, None), jnp.zeros((2, 3)), x.swapaxes(0, 1))[0][:, None]


def deep(x, padding=(2, 0)):
    """The same layer again and again, by a scan over the layers."""
    kernels = jnp.ones((4, 3, 3, 3)) / 9

    def step(c, kernel):
        return jnp.tanh(
            lax.conv_general_dilated(c, kernel, (1,), [padding], dimension_numbers=("NHC", "HIO", "NHC"))
        ), c

    return lax.scan(step, x, kernels)[0]


def looped(x):
    return lax.fori_loop(0, 3, lambda i, c: c + late(c), x)


def switched(x, other):
    return lax.cond(jnp.array(1) > 0, lambda a: a + late(a), other, x)


def self_attention(x):
    return layer(nn.MultiHeadDotProductAttention(1))(x)


def causal_attention(x):
    return nn.MultiHeadDotProductAttention(1).init_with_output(KEY, x, mask=nn.make_causal_mask(x[..., 0]))[0]


def frames(x, module=nn.Conv):
    over = nn.vmap(module, variable_axes={"params": None}, split_rngs={"params": False}, in_axes=1, out_axes=1)
    return over(4, (3, 3)).init_with_output(KEY, x)[0]


def folded(x, back=lambda y, n: y.reshape(n, -1, *y.shape[1:])):
    y = conv(4, (3, 3))(x.reshape(-1, *x.shape[2:]))
    return back(nn.avg_pool(y, (2, 2), (2, 2)).mean((1, 2)), x.shape[0])


def merged_otherwise(x):
    """Frames before the batch, then read as if behind it: sequences and frames are mixed."""
    y = x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    return y.reshape(x.shape)


def causal_video(x):
    y = nn.relu(conv(4, (3, 3, 3), padding=[(2, 0), (1, 1), (1, 1)])(x))
    return conv(4, (2, 1, 1), padding=[(1, 0), (0, 0), (0, 0)])(y).max((2, 3))


CASES = {
    # sequences
    "a causal convolution": (conv(4, (3,), padding="CAUSAL"), SEQUENCE, "causal"),
    "dilated": (conv(4, (3,), padding="CAUSAL", kernel_dilation=2), SEQUENCE, "causal"),
    "grouped": (conv(6, (2,), padding="CAUSAL", feature_group_count=3), SEQUENCE, "causal"),
    "padded on the left": (conv(4, (3,), padding=[(2, 0)]), SEQUENCE, "causal"),
    "too little on the left": (conv(4, (4,), padding=[(2, 1)]), SEQUENCE, NOT_KNOWN),
    "pad, then VALID": (
        chain(lambda x: jnp.pad(x, ((0, 0), (4, 0), (0, 0))), conv(4, (3,), padding="VALID", kernel_dilation=2)),
        SEQUENCE,
        "causal",
    ),
    "padded on both sides, the end cut off": (chain(conv(4, (3,), padding=2), lambda y: y[:, :-2]), SEQUENCE, "causal"),
    "padded on both sides, the start cut off": (
        chain(conv(4, (3,), padding=2), lambda y: y[:, 2:]),
        SEQUENCE,
        NOT_KNOWN,
    ),
    "a later one looks ahead": (chain(conv(4, (3,), padding="CAUSAL"), conv(4, (3,))), SEQUENCE, NOT_KNOWN),
    "one looks back as far as another ahead": (chain(late, conv(4, (3,))), SEQUENCE, "causal"),
    "same": (conv(4, (3,)), SEQUENCE, NOT_KNOWN),
    "circular": (conv(4, (3,), padding="CIRCULAR"), SEQUENCE, NOT_KNOWN),
    "transposed": (layer(nn.ConvTranspose(4, (3,))), SEQUENCE, NOT_KNOWN),
    "one number wide": (conv(4, (1,)), SEQUENCE, "each"),
    "dense": (chain(layer(nn.Dense(5)), nn.gelu, layer(nn.Dropout(0.5, deterministic=False))), SEQUENCE, "each"),
    "WaveNet": (wavenet, SEQUENCE, "causal"),
    "the mean over positions": (lambda x: x - x.mean(1, keepdims=True), SEQUENCE, NOT_KNOWN),
    "a group norm": (layer(nn.GroupNorm(1)), SEQUENCE, NOT_KNOWN),
    "cumsum": (lambda x: jnp.cumsum(x, 1), SEQUENCE, "causal"),
    "cumsum from the end": (lambda x: lax.cumsum(x, 1, reverse=True), SEQUENCE, NOT_KNOWN),
    "cumsum over channels": (lambda x: jnp.cumsum(x, -1), SEQUENCE, "each"),
    "turned round": (lambda x: x[:, ::-1], SEQUENCE, NOT_KNOWN),
    "channels turned round": (lambda x: x[..., ::-1], SEQUENCE, "each"),
    "sorted": (lambda x: jnp.sort(x, 1), SEQUENCE, NOT_KNOWN),
    "a maximum of the last three": (
        chain(lambda x: late(x, 2), lambda x: nn.max_pool(x, (3,), padding=[(0, 2)])),
        SEQUENCE,
        "causal",
    ),
    "concatenated": (lambda x: jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], 1), SEQUENCE, "causal"),
    "rolled": (lambda x: jnp.roll(x, 1, 1), SEQUENCE, NOT_KNOWN),
    "a recurrent network": (layer(nn.RNN(nn.GRUCell(4))), SEQUENCE, "causal"),
    "two of them": (chain(layer(nn.RNN(nn.LSTMCell(4))), layer(nn.RNN(nn.SimpleCell(4)))), SEQUENCE, "causal"),
    "from the end": (layer(nn.RNN(nn.GRUCell(4), reverse=True, keep_order=True)), SEQUENCE, NOT_KNOWN),
    "in both directions": (layer(nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))), SEQUENCE, NOT_KNOWN),
    "a scan of sums": (running_sum, SEQUENCE, "causal"),
    "a scan from the end": (lambda x: running_sum(x, reverse=True), SEQUENCE, NOT_KNOWN),
    "a scan with a buffer": (buffered, SEQUENCE, "causal"),
    "what a scan leaves": (last_state, SEQUENCE, NOT_KNOWN),
    "a scan over causal layers": (deep, SEQUENCE, "causal"),
    "a scan over other layers": (lambda x: deep(x, (1, 1)), SEQUENCE, NOT_KNOWN),
    "a loop": (looped, SEQUENCE, "causal"),
    "two branches": (lambda x: switched(x, lambda a: 2 * a), SEQUENCE, "causal"),
    "a branch that looks ahead": (lambda x: switched(x, lambda a: a[:, ::-1]), SEQUENCE, NOT_KNOWN),
    "jit and remat": (jax.jit(jax.checkpoint(wavenet)), SEQUENCE, "causal"),
    "attention": (self_attention, SEQUENCE, NOT_KNOWN),
    "attention under a mask": (causal_attention, SEQUENCE, NOT_KNOWN),  # causal, by numbers that a jaxpr does not hold
    "every second position": (chain(conv(4, (2,), padding=[(1, 0)]), lambda y: y[:, ::2]), SEQUENCE, NOT_KNOWN),
    # video
    "convolutions of images": (conv(4, (3, 3)), VIDEO, "each"),
    "of one frame": (chain(conv(4, (1, 3, 3)), lambda y: nn.max_pool(y, (1, 3, 3), (1, 2, 2))), VIDEO, "each"),
    "frames by vmap": (frames, VIDEO, "each"),
    "frames in the batch": (folded, VIDEO, "each"),
    "frames in the batch, wrongly out": (
        lambda x: folded(x, lambda y, n: y.reshape(-1, n, y.shape[-1]).swapaxes(0, 1)),
        VIDEO,
        NOT_KNOWN,
    ),
    "mixed frames": (merged_otherwise, VIDEO, NOT_KNOWN),
    "a causal video": (causal_video, VIDEO, "causal"),
    "three frames": (conv(4, (3, 3, 3)), VIDEO, NOT_KNOWN),
    "a frame's mean": (lambda x: x - x.mean((2, 3), keepdims=True), VIDEO, "each"),
}


def dependence(function, x):
    """Which positions each position of the output moves with: (outputs, inputs), by forward derivatives."""
    seeds = jax.random.normal(KEY, (x.shape[1], *x.shape))
    seeds = seeds * jnp.eye(x.shape[1]).reshape(x.shape[1], 1, x.shape[1], *(1,) * (x.ndim - 2))
    moved = jax.vmap(lambda seed: jax.jvp(function, (x,), (seed,))[1])(seeds)
    return np.asarray(jnp.abs(moved).sum(axis=(1, *range(3, moved.ndim))) > 0).T


@pytest.mark.parametrize("name", CASES)
def test_what_is_proved(name):
    function, shape, expected = CASES[name]
    found = positions(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, jnp.float32)), [0], axis=1)
    assert (found.is_causal, found.is_each) == (expected != NOT_KNOWN, expected == "each")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2] != NOT_KNOWN])
def test_derivatives_say_so_too(name):
    function, shape, expected = CASES[name]
    moves = dependence(function, jax.random.normal(KEY, shape))
    if expected == "causal":
        assert not np.triu(moves, 1).any()
    if expected == "each":
        assert not (moves & ~np.eye(len(moves), dtype=bool)).any()


def test_the_oracle_sees_what_is_not_proved():
    """The control: of the functions that are not causal, derivatives show it."""
    x = jax.random.normal(KEY, SEQUENCE)
    for name in ("rolled", "a scan from the end"):
        assert np.triu(dependence(CASES[name][0], x), 1).any(), name


def test_each_module_tells_where_the_positions_are():
    def network(x):
        x = tag("conv", conv(4, (3, 3, 3), padding=[(2, 0), (1, 1), (1, 1)])(x))
        x = tag("first", x.transpose(0, 4, 1, 2, 3))
        x = tag("folded", x.transpose(0, 2, 3, 4, 1).reshape(-1, 5, 4, 4))
        return tag("pooled", x.mean((1, 2)).reshape(2, 6, 4))

    found = positions(jax.make_jaxpr(network)(jnp.zeros(VIDEO)), [0], axis=1)
    axes = {path: (state.axis, state.outer, state.is_alone) for path, [(state, _)] in found.modules.items()}
    assert axes == {"conv": (1, 1, True), "first": (2, 1, True), "folded": (0, 2, False), "pooled": (1, 1, True)}


def test_a_settled_module_is_what_it_is_once_trained():
    def batch_norm(x):
        x = tag_input("bn", x)
        return tag("bn", (x - x.mean((0, 1))) / jnp.sqrt(x.var((0, 1)) + 1e-5))

    jaxpr = jax.make_jaxpr(batch_norm)(jnp.zeros(SEQUENCE))
    assert not positions(jaxpr, [0], axis=1).is_causal
    assert positions(jaxpr, [0], axis=1, settled=["bn"]).is_each


def test_a_second_input_with_the_same_positions_counts():
    x = jnp.zeros(SEQUENCE)
    mask = jnp.zeros(SEQUENCE[:2])
    ahead = jax.make_jaxpr(lambda x, mask: x * mask[:, ::-1, None])(x, mask)
    beside = jax.make_jaxpr(lambda x, mask: x * mask[..., None])(x, mask)
    assert not positions(ahead, [0, 1], axis=1).is_causal
    assert positions(beside, [0, 1], axis=1).is_each
