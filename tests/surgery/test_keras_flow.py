"""What the graph of a Keras network promises along an axis, against what a change of later positions moves."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from eca_multi.keras.surgery._find.graph import Network
from eca_multi.keras.surgery._find.promises import Promises
from tests.support.keras_causal_nets import CAUSAL, FRAMEWISE, ORDINARY
from tests.support.surgery_keras_nets import randomised

pytestmark = pytest.mark.keras
T, C = 8, 4


def promises(model):
    return list(Promises(Network(model)))


def sees_later(model, axis=1):
    """Whether a change of the second half of the input moves the output's first half."""
    x = np.random.default_rng(0).standard_normal((2, *model.inputs[0].shape[1:])).astype("float32")
    changed, later = x.copy(), [slice(None)] * x.ndim
    later[axis] = slice(x.shape[axis] // 2, None)
    changed[tuple(later)] += 1
    before, after = (ops.convert_to_numpy(model(v, training=False)) for v in (x, changed))
    return not np.array_equal(before[:, : before.shape[1] // 2], after[:, : after.shape[1] // 2])


@pytest.mark.parametrize("make", [*CAUSAL, *FRAMEWISE], ids=lambda make: make.__name__)
def test_a_causal_network_promises_its_axis_of_time(make):
    (promise,) = promises(make())
    assert (promise.axis, promise.output_axis, promise.is_framewise) == (1, 1, make in FRAMEWISE)
    assert promise.signs


@pytest.mark.parametrize("make", ORDINARY, ids=lambda make: make.__name__)
def test_an_ordinary_network_promises_nothing(make):
    assert promises(make()) == []


class Shifted(L.Layer):
    """A layer of a user's own, whose code Keras's operations tell."""

    def __init__(self, first=0, last=None, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, last
        self.inner = L.Conv1D(C, 1)

    def call(self, x):
        return self.inner(ops.pad(x[:, self.first : self.last], ((0, 0), (1, 0), (0, 0))))


class OwnConv(L.Conv1D):
    """Code of a user's own that no graph tells: it needs values."""

    def call(self, inputs):
        return super().call(inputs) * float(ops.convert_to_numpy(ops.sum(self.bias)) + 1)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], self.filters), inputs.dtype)


def flipped(x):
    return L.Permute((2, 1))(x)


# Name, what stands behind a causal convolution (N, T, C), whether the graph promises the axis of time.
STEPS = [
    ("causal", lambda x: L.Conv1D(C, 3, padding="causal", dilation_rate=2)(x), True),
    ("same", lambda x: L.Conv1D(C, 3, padding="same")(x), False),
    ("valid", lambda x: L.Conv1D(C, 3)(x), False),
    ("pointwise", lambda x: L.Conv1D(C, 1)(x), True),
    ("left", lambda x: L.DepthwiseConv1D(3)(L.ZeroPadding1D((2, 0))(x)), True),
    ("left_too_little", lambda x: L.Conv1D(C, 4)(L.ZeroPadding1D((2, 0))(x)), False),
    ("right", lambda x: L.Conv1D(C, 3)(L.ZeroPadding1D((0, 2))(x)), False),
    ("chomp", lambda x: L.Cropping1D((0, 2))(L.SeparableConv1D(C, 3)(L.ZeroPadding1D(2)(x))), True),
    ("chomp_front", lambda x: L.Cropping1D((2, 0))(L.Conv1D(C, 3)(L.ZeroPadding1D(2)(x))), False),
    ("reflected", lambda x: ops.pad(x, ((0, 0), (2, 0), (0, 0)), mode="reflect"), False),
    ("sliced", lambda x: ops.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0))), True),
    ("sliced_front", lambda x: x[:, 1:], False),
    ("sliced_ellipsis", lambda x: x[..., :2], True),
    ("last_alone", lambda x: L.RepeatVector(T)(x[:, -1]), False),
    ("zeros_in_front", lambda x: L.Concatenate(axis=1)([ops.zeros_like(x[:, :2]), x])[:, :-2], True),
    ("zeros_behind", lambda x: L.Concatenate(axis=1)([x[:, 2:], ops.zeros_like(x[:, :2])]), False),
    ("lstm", lambda x: L.LSTM(C, return_sequences=True)(x), True),
    ("gru_backwards", lambda x: L.GRU(C, return_sequences=True, go_backwards=True)(x), False),
    ("both_ways", lambda x: L.Bidirectional(L.GRU(C, return_sequences=True))(x), False),
    ("last_state", lambda x: L.RepeatVector(T)(L.LSTM(C)(x)), False),
    ("layer_norm", lambda x: L.LayerNormalization()(x), True),
    ("layer_norm_over_time", lambda x: L.LayerNormalization(axis=(1, 2))(x), False),
    ("group_norm", lambda x: L.GroupNormalization(2)(x), False),
    ("softmax_of_channels", lambda x: L.Activation("softmax")(x), True),
    ("softmax_of_time", lambda x: flipped(L.Activation("softmax")(flipped(x))), False),
    ("dense", lambda x: L.Dense(C)(x), True),
    ("dense_over_time", lambda x: flipped(L.Dense(T)(flipped(x))), False),
    ("einsum", lambda x: L.EinsumDense("abc,cd->abd", (None, C))(x), True),
    ("einsum_over_time", lambda x: L.EinsumDense("abc,bd->adc", (T, C))(x), False),
    ("causal_attention", lambda x: L.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True), True),
    ("attention", lambda x: L.MultiHeadAttention(2, 2)(x, x), False),
    ("dot_attention", lambda x: L.Attention()([x, x], use_causal_mask=True), True),
    ("pooled", lambda x: x + ops.mean(x, 1, keepdims=True), False),
    ("mean_of_channels", lambda x: x * ops.mean(x, -1, keepdims=True), True),
    ("cumsum", lambda x: ops.cumsum(x, 1), True),
    ("strided", lambda x: L.Conv1D(C, 3, 2, padding="causal")(x), True),
    ("max_pooled", lambda x: L.MaxPooling1D(2)(x), True),
    ("pooled_and_up", lambda x: L.UpSampling1D(2)(L.MaxPooling1D(2)(x)), False),
    ("up", lambda x: L.UpSampling1D(2)(L.Conv1D(C, 2, 2, padding="causal")(x)), True),
    ("transposed", lambda x: L.Cropping1D((0, 2))(L.Conv1DTranspose(C, 3)(x)), True),
    ("transposed_same", lambda x: L.Conv1DTranspose(C, 3, padding="same")(x), False),
    ("as_image", lambda x: L.Reshape((T, C))(L.Conv2D(1, (1, 3), padding="same")(L.Reshape((T, C, 1))(x))), True),
    ("mixed_by_reshape", lambda x: L.Reshape((T, C))(L.Permute((2, 1))(x)), False),
    ("expanded", lambda x: ops.squeeze(ops.expand_dims(x, 1), 1), True),
    ("transposed_axes", lambda x: ops.transpose(ops.swapaxes(x, 1, 2), (0, 2, 1)), True),
    ("normed_over_batch", lambda x: L.BatchNormalization()(x), True),
    ("lambda", lambda x: L.Lambda(lambda z: ops.pad(z, ((0, 0), (1, 0), (0, 0)))[:, :-1])(x), True),
    ("own_layer", lambda x: Shifted(0, -1)(x), True),
    ("own_layer_ahead", lambda x: Shifted(2)(x), False),
    ("unread", lambda x: OwnConv(C, 1)(x), False),
    ("each", lambda x: L.TimeDistributed(L.Dense(C))(x), True),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_a_step_is_promised_only_where_no_later_position_is_seen(build, expected):
    x = keras.Input((T, C))
    model = randomised(keras.Model(x, build(L.Conv1D(C, 2, padding="causal")(x))))
    found = [promise for promise in promises(model) if promise.axis == 1]
    assert bool(found) == expected
    if found:
        assert not sees_later(model)


def test_the_check_by_numbers_can_fail():
    x = keras.Input((T, C))
    assert sees_later(randomised(keras.Model(x, L.Conv1D(C, 3, padding="same")(x))))


def test_pointwise_layers_alone_promise_nothing():
    """Nothing in them says that the order of positions is meant."""
    x = keras.Input((6, 5, 3))
    assert promises(keras.Model(x, L.Conv2D(4, 1)(L.ReLU()(L.Dense(8)(x))))) == []


def test_each_input_and_output_has_promises_of_its_own():
    series, label = keras.Input((T, C), name="series"), keras.Input((3,), name="label")
    x = L.Conv1D(C, 3, padding="causal")(series) + L.Reshape((1, C))(L.Dense(C)(label))
    model = keras.Model(
        {"series": series, "label": label}, {"all": L.GlobalAveragePooling1D()(x), "each": L.Dense(2)(x)}
    )
    (promise,) = promises(model)
    assert (model.inputs[promise.input].name, model.outputs[promise.output].shape) == ("series", (None, T, 2))


def test_a_shared_network_is_followed_in_each_call():
    x = keras.Input((T, C))
    inner = keras.Sequential([keras.Input((T, C)), L.Conv1D(C, 2, padding="causal")])
    assert len(promises(keras.Model(x, inner(inner(x))))) == 1
    assert promises(keras.Model(x, inner(L.Conv1D(C, 3, padding="same")(inner(x))))) == []


def test_an_axis_inside_of_frames_is_another_one():
    """(N, T, L, C): causal along L within each frame, and frame by frame along T."""
    x = keras.Input((3, T, C))
    model = keras.Model(x, L.TimeDistributed(L.Conv1D(C, 3, padding="causal"))(x))
    assert [(promise.axis, promise.is_framewise) for promise in promises(model)] == [(1, True), (2, False)]
