"""ECA in Keras networks that keep an order of positions: what breaks it is refused; the remedy keeps it in training.

The order is looked at from outside: other inputs at later positions, or in one frame, must move no other output.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from eca_multi.keras import (
    eca_state,
    insert_eca,
    installed_eca,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.surgery.causality import breaks
from eca_multi.surgery.errors import CausalityError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.plan_text import listed
from tests.support import keras_causal_nets as nets
from tests.support.keras_causal_nets import inputs_of
from tests.support.surgery_keras_nets import randomised

pytestmark = pytest.mark.keras

# The network, where ECA is asked for, the sites that break the order, and the remedy.
CAUSAL = {"causal_axis": 1}
CASES = {
    "tcn": (nets.tcn, "residual", ("block0_conv2", "block1_conv2"), CAUSAL),
    "chomped": (nets.chomped, "residual", ("block0_bn", "block1_bn"), CAUSAL),
    "wavenet": (nets.wavenet, "residual", ("layer0_out", "layer1_out", "layer2_skip"), CAUSAL),
    "sequential": (nets.sequential, "conv", ("conv1", "conv2", "head"), CAUSAL),
    "left_padded": (nets.left_padded, "residual", ("bn2", "conv3"), CAUSAL),
    "causal_3d": (nets.causal_3d, "residual", ("block0_bn", "block1_bn"), CAUSAL),
    "causal_3d_apart": (nets.causal_3d, "residual", ("block0_bn", "block1_bn"), {"pool_axes": (2, 3)}),
    "recurrent": (nets.recurrent, "residual", ("conv",), CAUSAL),
    "video": (nets.video, "residual", ("bn",), {"overrides": {"bn": {"pool_axes": (2, 3)}}}),
}
each = pytest.mark.parametrize("case", [pytest.param(CASES[name], id=name) for name in CASES])


def broken(plan):
    """The sites of a plan that break the order of positions."""
    return tuple(e.path for e in plan.entries if any(breaks(e, shown) for shown in plan.evidence))


def moved(model, x, part):
    """By how much the outputs at other positions than `part` of axis 1 move where the inputs there are others."""
    changed = x.copy()
    changed[:, part] = 6 - x[:, part] if x.dtype == "int32" else x[:, part] + 1
    before, again, after = (ops.convert_to_numpy(model(v, training=False)) for v in (x, x, changed))
    assert np.array_equal(before, again)  # no noise, so that bits count
    difference = np.abs(after - before)
    assert difference[:, part].max() > 0
    difference[:, part] = 0
    return difference.max()


def leak(model, x):
    """The most that a later position moves an earlier output, or one frame another one's."""
    if model.name == "video":
        return moved(model, x, slice(1, 2))
    return max(moved(model, x, slice(start, None)) for start in (1, x.shape[1] // 2, x.shape[1] - 1))


def off_identity(model):
    """The model with kernels that are not 0, as training makes them."""
    rng = np.random.default_rng(0)
    return load_eca_state(model, {key: rng.normal(size=kernel.shape) for key, kernel in eca_state(model).items()})


def trained(model, x, steps=20):
    """The model after some steps on random targets, in which the kernels of its ECAs leave 0."""
    y = np.random.default_rng(1).standard_normal(ops.shape(model(x))).astype("float32")
    model.compile(keras.optimizers.Adam(0.03), "mse", jit_compile=False)
    model.fit(x, y, batch_size=len(x), epochs=steps, verbose=0)
    assert all(np.abs(kernel).min() > 0 for kernel in eca_state(model).values())
    return model


@each
def test_a_mean_over_all_positions_is_refused_with_its_sites_and_the_remedy(case):
    make, where, sites, remedy = case
    model = make()
    assert broken(plan_eca(model, where)) == sites
    (name,) = CAUSAL if make is not nets.video else remedy
    with pytest.raises(CausalityError, match=f"Pass {name}=") as raised:
        insert_eca(model, where)
    assert listed(sites) in str(raised.value)
    new = insert_eca(model, where, **remedy)
    plan = plan_eca(model, where, **remedy)
    assert broken(plan) == ()
    assert installed_eca(new) == plan
    x = inputs_of(model)
    assert leak(off_identity(new), x) == 0
    assert leak(off_identity(insert_eca(model, where, keep_causality=False)), x) > 1e-4


@pytest.mark.slow
@each
def test_after_training_the_order_is_kept_and_without_the_remedy_it_is_not(case):
    make, where, _, remedy = case
    x = inputs_of(make())
    assert leak(trained(insert_eca(make(), where, **remedy), x), x) == 0
    most = leak(trained(insert_eca(make(), where, keep_causality=False), x), x)
    print(f"{make.__name__} on {keras.backend.backend()}: after 20 steps without the remedy {most:.1e}, with it 0")
    assert most > 1e-4


@pytest.mark.slow
@each
def test_a_file_keeps_the_axes(case, tmp_path):
    make, where, _, remedy = case
    net = make()
    before = ops.convert_to_numpy(net(inputs_of(net), training=False))
    model = off_identity(insert_eca(net, where, **remedy))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = inputs_of(model)
    assert np.array_equal(*(ops.convert_to_numpy(m(x, training=False)) for m in (model, loaded)))
    assert installed_eca(loaded) == installed_eca(model) == plan_eca(make(), where, **remedy)
    assert leak(loaded, x) == 0
    plain = remove_eca(loaded)
    assert np.array_equal(before, ops.convert_to_numpy(plain(x, training=False)))


@pytest.mark.parametrize("make", nets.ORDINARY, ids=lambda make: make.__name__)
def test_an_ordinary_network_is_left_in_peace(make):
    model = make()
    plan = plan_eca(model, "conv", example_inputs=inputs_of(model))
    assert plan.evidence == ()


def test_a_plan_from_a_file_is_refused_too_and_one_with_axes_is_carried_out():
    model = nets.tcn()
    plan = ECAPlan.from_json(plan_eca(model).to_json())
    for other in (plan, replace(plan, evidence=())):
        with pytest.raises(CausalityError, match="causal_axis=1"):
            insert_eca(model, plan=other)
    assert installed_eca(insert_eca(model, plan=plan, keep_causality=False)) == plan
    insisted = plan_eca(model, keep_causality=False)
    assert installed_eca(insert_eca(model, plan=insisted)) == insisted
    kept = ECAPlan.from_json(plan_eca(model, causal_axis=1).to_json())
    assert [entry.causal_axis for entry in installed_eca(insert_eca(model, plan=kept)).entries] == [1, 1]


def test_the_print_of_a_plan_names_the_evidence():
    text = str(plan_eca(nets.tcn()))
    assert "causal along axis 1 of (N, *S, C)" in text
    assert "Conv1D 'block0_conv1' has padding='causal'" in text
    assert "which insert_eca refuses. Pass causal_axis=1;" in text


def test_networks_inside_of_frames_see_one_frame_each():
    model = nets.video()
    plan = plan_eca(model, "conv_norm")
    assert plan.paths == ("each/frame/stem_bn", "each/frame/a_bn", "each/frame/b_bn")
    assert broken(plan) == ()
    assert leak(off_identity(insert_eca(model, plan=plan)), inputs_of(model)) == 0


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_an_axis_is_meant_as_in_channels_last(data_format):
    """The plan holds each site's own axis: 2 in (N, C, T), 1 in (N, T, C)."""
    is_first = data_format == "channels_first"
    inputs = keras.Input((4, 8) if is_first else (8, 4))
    options = {"data_format": data_format, "padding": "same" if is_first else "causal"}
    y = inputs
    if is_first:  # Keras has causal padding for the other layout alone
        y, options["padding"] = L.ZeroPadding1D((2, 0), data_format=data_format)(y), "valid"
    y = L.Conv1D(4, 3, name="conv", **options)(y)
    model = keras.Model(inputs, L.Add()([inputs, y]))
    with pytest.raises(CausalityError, match="Pass causal_axis=1;"):
        insert_eca(model)
    entry = plan_eca(model, causal_axis=1).entries[0]
    assert entry.causal_axis == (2 if is_first else 1)


class Hidden(L.Layer):
    """A causal layer whose code no graph tells, for its call needs values."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(2, shape[-1]), initializer="ones", name="taps")

    def call(self, x):
        before = ops.concatenate([ops.zeros_like(x[:, :1]), x[:, :-1]], 1)
        if not isinstance(x, keras.KerasTensor):
            return x * self.kernel[0] + before * self.kernel[1]
        raise NotImplementedError

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_runs_find_what_the_graph_does_not_say():
    inputs = keras.Input((8, 4), name="series")
    x = L.Conv1D(6, 1, name="conv")(Hidden(name="hidden")(inputs))
    model = randomised(keras.Model(inputs, L.Dense(2, name="head")(x)))
    x = inputs_of(model)
    assert plan_eca(model, "conv").evidence == ()
    (shown,) = plan_eca(model, "conv", example_inputs=x).evidence
    assert (shown.how, shown.place, shown.rank, shown.sites) == ("causal", 0, 3, ("conv",))
    with pytest.raises(CausalityError, match="earlier outputs did not move"):
        insert_eca(model, "conv", example_inputs=x)
    assert leak(off_identity(insert_eca(model, "conv", causal_axis=1, example_inputs=x)), x) == 0


def test_several_inputs_and_outputs():
    """A classifier's answer on the side takes nothing from the promise of the other output."""
    series, label = keras.Input((nets.T, 4), name="series"), keras.Input((3,), name="label")
    x = L.Add(name="shift")([series, L.Reshape((1, 4))(L.Dense(4)(label))])
    x = L.Add(name="add")([x, L.Conv1D(4, 3, padding="causal", name="conv")(x)])
    aside = L.Add(name="aside_add")([x, L.Conv1D(4, 1, name="aside")(x)])
    outputs = {"all": L.GlobalAveragePooling1D()(aside), "each": L.Dense(2)(x)}
    model = randomised(keras.Model({"series": series, "label": label}, outputs))
    rng = np.random.default_rng(0)
    inputs = {"series": rng.normal(size=(2, nets.T, 4)), "label": rng.normal(size=(2, 3))}
    for plan in (plan_eca(model), plan_eca(model, example_inputs={k: v.astype("float32") for k, v in inputs.items()})):
        assert "aside" in plan.paths
        assert "conv" in broken(plan)
    assert broken(plan_eca(model)) == ("conv",)


def test_a_state_of_a_layer_is_left_alone_by_the_runs():
    inputs = keras.Input(batch_shape=(2, 6, 4))
    x = L.Add()([inputs, L.Conv1D(4, 3, padding="causal", name="conv")(inputs)])
    model = keras.Model(inputs, L.LSTM(3, return_sequences=True, stateful=True)(x))
    before = [ops.convert_to_numpy(v) for v in model.variables]
    plan_eca(model, example_inputs=inputs_of(model))
    assert all(np.array_equal(a, ops.convert_to_numpy(v)) for a, v in zip(before, model.variables, strict=True))
