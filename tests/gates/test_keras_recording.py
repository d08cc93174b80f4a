"""`record_gates` in Keras on each backend: the numbers beside the oracle's, in calls, predict and fit; the callback."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from eca_multi import reference
from eca_multi.gates import load_gates
from eca_multi.keras import ECA, GateRecorder, eca_resnet18, insert_eca, prune_plan, record_gates, remove_eca
from eca_multi.surgery.errors import NoSiteError

pytestmark = pytest.mark.keras
OWN, INSERTED = np.array([0.5, 1.0, -0.5]), np.array([-0.75, 0.5, 0.25])


def network(inserted=INSERTED):
    """A model with an ECA of its author at `own`, and one of surgery at `conv`."""
    inputs = keras.Input((6, 5, 3))
    x = ECA(3, gate="2sigmoid", name="own")(L.Conv2D(8, 3, name="stem")(inputs))
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(8, 1, name="conv")(x)), name="net")
    model.get_layer("own").kernel.assign(OWN.reshape(3, 1, 1))
    model = insert_eca(model, ["conv"], kernel_size=3)
    next(layer for layer in model.layers if layer.name.startswith("conv_eca")).kernel.assign(inserted.reshape(3, 1, 1))
    return model


def data(rng, n=4):
    return rng.normal(size=(n, 6, 5, 3)).astype("float32") + np.linspace(-2, 2, n, dtype="float32")[:, None, None, None]


def gates_of(model, x):
    """The gates of `own` by the oracle, from what stands before it."""
    before = keras.Model(model.inputs[0], model.get_layer("stem").output)
    values = np.asarray(ops.convert_to_numpy(before(x)), np.float64)
    return reference.forward(values, OWN, gate="2sigmoid", channel_axis=-1).gate


def test_calls_are_recorded_by_path_and_class(rng, tmp_path):
    model, x = network(), data(rng)
    before = ops.convert_to_numpy(model(x))
    with record_gates(model, raw=2) as gates:
        with gates.label(["cat", "dog", "dog", "dog"]):
            during = model(x)
        model(x * 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(during), before)
    expected = np.concatenate([gates_of(model, x), gates_of(model, x * 2)])
    assert gates.paths == ("own", "conv")
    assert (gates["own"].inserted, gates["conv"].inserted) == (False, True)
    assert np.ptp(expected) > 0.1  # the control: gates that do something
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(gates["own"].mean, expected.mean(0), **near)
    np.testing.assert_allclose(gates["own"].minimum, expected.min(0), **near)
    np.testing.assert_allclose(gates["own"].classes["cat"].mean, expected[0], **near)
    np.testing.assert_allclose(gates["own"].raw, expected[:2], **near)
    np.testing.assert_allclose(gates["conv"].kernel, INSERTED)
    gates.save(tmp_path / "gates.npz")
    assert str(load_gates(tmp_path / "gates.npz")) == str(gates)
    model(x)
    assert gates["own"].count == 8  # after the context nothing is recorded
    assert "call" not in vars(model.get_layer("own"))


def test_predict_and_fit_are_recorded_and_their_compiled_functions_stay(rng):
    model, x = network(), data(rng)
    y = np.zeros((4, 8), "float32")
    model.compile("sgd", "mse", jit_compile=False)
    before = model.predict(x, verbose=0)
    function, eagerly = model.predict_function, model.run_eagerly
    with record_gates(model) as gates:
        np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
    assert (model.predict_function, model.run_eagerly) == (function, eagerly)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    np.testing.assert_allclose(gates["own"].mean, gates_of(model, x).mean(0), rtol=1e-5)
    with record_gates(model) as gates:
        model.fit(x, y, batch_size=2, epochs=1, shuffle=False, verbose=0)
    assert gates["own"].count == 4
    assert np.isfinite(gates["own"].mean).all()


def test_training_goes_on_as_without_a_recording(rng):
    x, y = data(rng), np.ones((4, 8), "float32")
    weights = []
    for recorded in (False, True):
        model = keras.models.clone_model(network())
        model.set_weights([np.full(w.shape, 0.1, "float32") for w in model.get_weights()])
        model.compile("sgd", "mse", jit_compile=False)
        callbacks = [GateRecorder(x)] if recorded else []
        model.fit(x, y, batch_size=2, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_callback_records_each_epoch_on_its_data(rng):
    model, x = network(), data(rng)
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    batches = [(x[:3], [0, 1, 1]), (x[3:], [0])]
    for given in ((x, np.array([0, 1, 1, 0])), (batches,)):
        recorder = GateRecorder(*given, batch_size=3)
        model.fit(x, np.ones((4, 8), "float32"), epochs=2, verbose=0, callbacks=[recorder])
        first, last = recorder.records
        assert (first["own"].calls, first["own"].count, first.labels) == (2, 4, (0, 1))
        assert np.abs(first["own"].mean - last["own"].mean).max() > 1e-5  # the weights moved
    with record_gates(model) as gates:
        model(x, training=False)
    np.testing.assert_allclose(gates["own"].mean, last["own"].mean, rtol=1e-5)


class Inside(L.Layer):
    """A layer of a user's own with an ECA in it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = ECA(3, pool_axes=(2,), name="attention")

    def call(self, x):
        return self.attention(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inside = Inside(name="inside")

    def call(self, x):
        return self.inside(x)


def test_layers_of_a_user_and_models_without_a_graph(rng):
    x = data(rng)
    model = Subclassed()
    model(x)
    with record_gates(model) as gates:
        model(x)
    (path,) = gates.paths
    assert path.endswith("inside/attention")
    assert gates[path].count == 4 * 6  # each row has gates of its own
    inputs = keras.Input((6, 5, 3))
    built = keras.Model(inputs, Inside(name="block")(inputs))
    with record_gates(built) as gates:
        built(x)
    assert gates.paths == ("block/attention",)


def test_our_networks_and_masks(rng):
    model = eca_resnet18(num_classes=3)
    with record_gates(model) as gates:
        model(rng.normal(size=(2, 32, 32, 3)).astype("float32"))
    assert len(gates) == 8
    inputs = keras.Input((5, 4))
    masked = keras.Model(inputs, ECA(3, name="eca")(L.Masking()(inputs)))
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    x[:, 3:] = 0  # what Masking leaves out
    with record_gates(masked) as gates:
        masked(x)
    kernel = gates["eca"].kernel
    np.testing.assert_allclose(
        gates["eca"].mean, reference.forward(x[:, :3], kernel, channel_axis=-1).gate.mean(0), rtol=1e-5
    )


def test_what_does_nothing_is_found_and_its_change_measured(rng):
    model, x = network(np.zeros(3)), data(rng)
    with record_gates(model) as gates:
        model(x)
    plan = prune_plan(model, gates, example_inputs=x)
    assert plan.paths == ("conv",)
    assert plan.together.largest == 0
    everything = prune_plan(model, gates, threshold=10.0, example_inputs=x)
    assert [one.path for one in everything.candidates] == ["own", "conv"]
    assert everything.candidates[0].removed.largest > 1e-3  # the control: this one does something
    plain = remove_eca(model, include=list(plan.paths))
    np.testing.assert_allclose(ops.convert_to_numpy(plain(x)), ops.convert_to_numpy(model(x)), rtol=1e-6, atol=1e-6)


def test_bad_input_and_nothing_stays_after_it(rng):
    model, x = network(), data(rng)
    nobody = r"model must be a network whose gates nobody records yet\. Received: one inside of record_gates\. Leave"
    with record_gates(model):
        with pytest.raises(ValueError, match=nobody):
            record_gates(model).__enter__()
        model(x)
    nothing = r"record_gates must be followed by a call of the network's ECAs\. Received: no call of 'own', 'conv'"
    with pytest.raises(ValueError, match=nothing), record_gates(model):
        pass
    without = remove_eca(insert_eca(plain_model(), "conv"))
    with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a Functional without it\."):
        record_gates(without).__enter__()
    with pytest.raises(TypeError, match=r"must be .*Received: int"):
        record_gates(3).__enter__()
    with record_gates(model) as gates:
        with gates.label([1, 2, 3]), pytest.raises(ValueError, match="3 labels for 4 samples"):
            model(x)
        model(x)
    assert all("call" not in vars(layer) for layer in model.layers)
    with record_gates(model):
        model(x)


def plain_model():
    inputs = keras.Input((6, 5, 3))
    return keras.Model(inputs, L.Conv2D(4, 1)(inputs))
