"""What a Keras network keeps through surgery: weights, flags, settings, states; and does it learn?"""

import keras
import numpy as np
import pytest
from keras import layers as L

from eca_multi.keras import (
    base_state,
    eca_parameters,
    eca_state,
    freeze_except_eca,
    infer_plan,
    insert_eca,
    installed_eca,
    load_base_state,
    load_eca_state,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery.verify import run
from eca_multi.surgery.errors import NoSiteError, PlanMismatchError
from tests.support.surgery_keras_nets import (
    RESIDUAL,
    data,
    efficient,
    mobile,
    names,
    randomised,
    resnet,
    sequence,
    step,
    trace_of,
)

pytestmark = pytest.mark.keras


# --- what the new model keeps ---------------------------------------------------------------------------------------


@pytest.mark.slow_on("jax")
def test_training_the_new_model_leaves_the_old_one_alone():
    model, x = resnet(), data()
    before = trace_of(model)
    new = insert_eca(model)
    step(new, x)
    assert trace_of(model) == before
    assert not np.array_equal(base_state(new)["stem_conv/kernel"], base_state(model)["stem_conv/kernel"])


def test_trainable_flags_and_a_frozen_model():
    model = resnet()
    model.get_layer("stem_conv").trainable = False
    new = insert_eca(model)
    assert [layer.name for layer in new.layers if not layer.trainable] == ["stem_conv"]
    model.trainable = False
    new = insert_eca(model)
    assert [v.path for v in new.trainable_variables] == ["block0_2_bn_eca/kernel", "block1_2_bn_eca/kernel"]
    assert "the model is frozen: of the new one the ECAs alone are trained" in plan_eca(model).notes
    assert not model.trainable


@pytest.mark.slow_on("jax")
def test_freeze_except_eca_trains_nothing_else():
    model, x = insert_eca(resnet()), data()
    assert freeze_except_eca(model) is model
    before = base_state(model)
    step(model, x)
    after = base_state(model)
    assert all(np.array_equal(before[key], after[key]) for key in before)  # moving statistics among them
    assert all(np.abs(kernel).max() > 0 for kernel in eca_state(model).values())
    with pytest.raises(NoSiteError, match=r"The network must have ECA. Received: a Functional without it"):
        freeze_except_eca(resnet())


class Doubled(keras.losses.Loss):
    """Its config cannot be told."""

    def __init__(self, factor):
        super().__init__(name="doubled")
        self.factor = factor

    def call(self, y, p):
        return self.factor * keras.ops.mean((y - p) ** 2, -1)


class Count(keras.metrics.Metric):
    def __init__(self, step):
        super().__init__(name="count")
        self.step = step
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y, p, sample_weight=None):
        self.total.assign_add(self.step)

    def result(self):
        return self.total


@pytest.mark.slow_on("jax")
def test_compile_settings_are_carried_over_as_objects():
    model = resnet()
    loss, count, eager = Doubled(2.0), Count(3.0), keras.backend.backend() != "jax"
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["mae", count], jit_compile=False, run_eagerly=eager)
    new = insert_eca(model)
    assert new.compiled
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert new.optimizer is not model.optimizer
    assert new.loss is loss
    assert (new.run_eagerly, new.jit_compile) == (eager, False)
    assert "compile settings and the optimizer's state are carried over" in plan_eca(model).notes
    logs = new.evaluate(data(), np.ones((2, 5), "float32"), verbose=0, return_dict=True)
    assert logs["count"] == 3
    assert logs["loss"] == pytest.approx(model.evaluate(data(), np.ones((2, 5)), verbose=0, return_dict=True)["loss"])
    model.compile("sgd", loss=lambda y, p: keras.ops.mean((y - p) ** 2), steps_per_execution=2)
    new = insert_eca(model)
    assert new.loss is model.loss
    assert new.steps_per_execution == 2


@pytest.mark.slow_on("jax")
def test_the_optimizers_state_is_carried_over():
    """ECA frozen, the next step of the new model is that of the old one, bit for bit; momentum counts in it."""
    model, x, y = resnet(), data(), np.ones((2, 5), "float32")
    eager = keras.backend.backend() != "jax"
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False, run_eagerly=eager)
    model.train_on_batch(x, y)
    new, fresh = insert_eca(model), insert_eca(model)
    fresh.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False, run_eagerly=eager)
    for kernel in (*eca_parameters(new), *eca_parameters(fresh)):
        kernel.trainable = False
    assert int(new.optimizer.iterations) == 1
    assert {v.path for v in model.optimizer.variables} < {v.path for v in new.optimizer.variables}
    back = remove_eca(new)
    for network in (model, new, back, fresh):
        network.train_on_batch(x, y)
    states = [base_state(network) for network in (model, new, back, fresh)]
    same = [all(np.array_equal(state[key], states[0][key]) for key in states[0]) for state in states]
    assert same == [True, True, True, False]


@pytest.mark.slow
def test_a_model_in_the_middle_of_fit():
    model, x = resnet(), data((4, 16, 16, 3))
    kept = []

    class Insert(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept.append((insert_eca(self.model), base_state(self.model)))

    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False)
    model.fit(x, np.ones((4, 5), "float32"), batch_size=2, verbose=0, callbacks=[Insert()])
    states = [base_state(new) for new, _ in kept]
    assert all(np.array_equal(states[n][key], value) for n, (_, then) in enumerate(kept) for key, value in then.items())
    assert not np.array_equal(states[0]["head/kernel"], states[1]["head/kernel"])
    assert not hasattr(kept[0][0], "history")
    kept[0][0].fit(x, np.ones((4, 5), "float32"), verbose=0)
    assert np.array_equal(base_state(model)["head/kernel"], states[1]["head/kernel"])


class Secretive(keras.optimizers.SGD):
    """Its config does not tell the factor."""

    def __init__(self, learning_rate=0.01, factor=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.factor = factor


def test_an_optimizer_whose_config_does_not_tell_it_is_not_guessed():
    model = resnet()
    model.compile(Secretive(0.1, factor=2.0), "mse")
    with pytest.warns(
        UserWarning, match=r"not compiled: what 'resnet' .* \(Secretive.get_config does not tell factor\)"
    ):
        assert not insert_eca(model).compiled
    model.compile(Secretive(0.1), "mse")
    assert insert_eca(model).compiled

    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

        def get_config(self):
            return {}

    rate = Own()
    model.compile(keras.optimizers.SGD(rate), "mse")
    assert float(insert_eca(model).optimizer.learning_rate) == pytest.approx(0.1)


def test_another_head(tmp_path):
    def net(classes):
        inputs = keras.Input((8, 8, 3))
        x = L.Add(name="add")([inputs, L.Conv2D(3, 3, padding="same", name="conv")(inputs)])
        x = L.Dense(7, name="before")(L.GlobalAveragePooling2D(name="pool")(x))
        return randomised(keras.Model(inputs, L.Dense(classes, name="head")(x), name="net"), seed=classes)

    old = net(4)
    old.save_weights(tmp_path / "old.weights.h5")
    old.save(tmp_path / "old.keras")
    for source in (tmp_path / "old.weights.h5", tmp_path / "old.keras", base_state(old)):
        new = insert_eca(net(9))
        before = base_state(new)
        with pytest.raises(ValueError, match=r"2 differences: head/\w+: shape \(7, 4\), the model's \(7, 9\); head/"):
            load_base_state(new, source)
        assert all(np.array_equal(before[key], value) for key, value in base_state(new).items())
        load_base_state(new, source, except_for=["head"])
        after, wanted = base_state(new), base_state(old) | {k: v for k, v in before.items() if k.startswith("head")}
        assert all(np.array_equal(after[key], wanted[key]) for key in wanted)
    with pytest.raises(ValueError, match=r"except_for must name layers .* Received: haed, which neither has"):
        load_base_state(new, base_state(old), except_for=["haed"])
    with pytest.raises(TypeError, match=r"except_for must be a list of paths. Received: 'head'. Pass \['head'\]"):
        load_base_state(new, base_state(old), except_for="head")


def test_weights_left_over_in_a_file_raise(tmp_path):
    old = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 3, name="conv"), L.Conv2D(3, 3, name="more")])
    old.save_weights(tmp_path / "old.weights.h5")
    new = insert_eca(keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(3, 3, name="conv")]), "conv")
    with pytest.raises(ValueError, match=r"a file with 2 differences: more/0: unexpected; more/1: unexpected"):
        load_base_state(new, tmp_path / "old.weights.h5")
    load_base_state(new, tmp_path / "old.weights.h5", except_for=["more"])
    np.testing.assert_array_equal(base_state(new)["conv/kernel"], base_state(old)["conv/kernel"])


def test_reload_without_custom_objects(tmp_path):
    new, x = insert_eca(RESIDUAL["efficient"][0]()), data()
    for kernel in eca_parameters(new):
        kernel.assign(np.full(kernel.shape, 0.3, "float32"))
    new.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(run(again, x)[0], run(new, x)[0])
    assert installed_eca(again) == installed_eca(new)
    assert names(remove_eca(again)) == names(efficient())


def test_get_layer_outputs_make_models():
    new = insert_eca(resnet())
    features = keras.Model(new.inputs, new.get_layer("block1_2_bn_eca").output)
    assert features.output_shape == (None, 8, 8, 16)


# --- states ---------------------------------------------------------------------------------------------------------


def test_old_weight_files_load_through_load_base_state(tmp_path):
    """And not through load_weights: see test_skip_mismatch_puts_wrong_weights_into_layers."""
    old, x = resnet(), data()
    old.compile("adam", "mse")
    old.save_weights(tmp_path / "old.weights.h5")
    old.save(tmp_path / "old.keras")
    fresh = insert_eca(randomised(resnet(), seed=7))
    assert not np.array_equal(run(fresh, x)[0], run(old, x)[0])
    for source in (tmp_path / "old.weights.h5", str(tmp_path / "old.keras"), base_state(old)):
        new = insert_eca(randomised(resnet(), seed=7))
        new.compile("sgd", "mse")
        eca_parameters(new)[0].assign(np.ones((3, 1, 1), "float32"))
        assert load_base_state(new, source) is new
        np.testing.assert_array_equal(run(new, x)[0], run(old, x)[0])


def test_states_name_weights_as_the_plain_network_does():
    model = resnet()
    new = insert_eca(model)
    assert set(base_state(new)) == set(base_state(model))
    assert "block0_2_bn/moving_variance" in base_state(new)
    assert list(eca_state(new)) == ["block0_2_bn_eca/kernel", "block1_2_bn_eca/kernel"]
    state = base_state(new)
    state["stem_conv/kernel"][:] = 0  # a copy
    assert np.abs(base_state(new)["stem_conv/kernel"]).max() > 0


def test_states_are_strict_and_leave_the_model_alone_on_failure():
    new = insert_eca(resnet())
    before = base_state(new)
    wrong = dict(before)
    del wrong["head/bias"]
    wrong["extra/kernel"] = np.zeros(3)
    wrong["stem_bn/beta"] = np.zeros(3)
    wrong["stem_conv/kernel"] = wrong["stem_conv/kernel"] * 2
    expected = r"3 differences: head/bias: missing; extra/kernel: unexpected; stem_bn/beta: shape \(3,\), the model's"
    with pytest.raises(ValueError, match=expected):
        load_base_state(new, wrong)
    assert all(np.array_equal(before[key], value) for key, value in base_state(new).items())
    with pytest.raises(ValueError, match=r"block1_2_bn_eca/kernel: missing"):
        load_eca_state(new, {"block0_2_bn_eca/kernel": np.zeros((3, 1, 1))})
    with pytest.raises(NoSiteError, match=r"The network must have ECA. Received: a Functional without it"):
        eca_state(resnet())


def test_infer_plan_errors():
    state = eca_state(insert_eca(resnet()))
    with pytest.raises(NoSiteError, match=r"must have kernels of inserted ECAs \('<site>_eca/kernel'\)"):
        infer_plan(resnet(), {"a/kernel": 1, "b/kernel": 2})
    with pytest.raises(PlanMismatchError, match="2 differences: block0_2_bn: is not there"):
        infer_plan(mobile(), state)


# --- the founding question ------------------------------------------------------------------------------------------


def digits():
    """Real sequences: the 8 rows of each digit, 8 pixels each."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8) / 16).astype("float32"), labels


@pytest.mark.slow
@pytest.mark.parametrize("with_eca", [False, True])
def test_the_two_layer_classifier_learns_digits(with_eca):
    keras.utils.set_random_seed(0)
    model = sequence((8, 8))
    if with_eca:
        model = insert_eca(model, "conv", example_inputs=data((2, 8, 8)))
        assert names(model)[:3] == ["conv1", "conv1_eca", "relu1"]
    x, y = digits()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(x[:1500], y[:1500], batch_size=100, epochs=20, verbose=0)
    accuracy = model.evaluate(x[1500:], y[1500:], batch_size=99, verbose=0)[1]
    assert accuracy > 0.8
    if with_eca:
        assert all(np.abs(kernel).max() > 0 for kernel in eca_state(model).values())


def in_half(policy, make):
    keras.config.set_dtype_policy(policy)
    try:
        return make()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.parametrize("made", ["by Keras", "by the user", "bfloat16"])
def test_a_model_in_the_middle_of_training_in_half_precision(made, tmp_path):
    """The loss stays scaled, by the scale of now, and momentum goes on, also outside of the policy's scope."""
    policy = "mixed_bfloat16" if made == "bfloat16" else "mixed_float16"
    model, x, y = in_half(policy, resnet), data(), np.ones((2, 5))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    if made == "by the user":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0, dynamic_growth_steps=2)
    model.compile(optimizer, "mse", jit_compile=False, run_eagerly=keras.backend.backend() != "jax")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) is (made != "bfloat16")
    for _ in range(3):
        model.train_on_batch(x, y)
    new = insert_eca(model, example_inputs=x)
    assert type(new.optimizer) is type(model.optimizer)
    if made == "by the user":
        assert float(new.optimizer.dynamic_scale) == float(model.optimizer.dynamic_scale) == 2048.0
    now = {v.path.rsplit("/", 1)[-1]: keras.ops.convert_to_numpy(v) for v in new.optimizer.variables}
    old = {v.path.rsplit("/", 1)[-1]: keras.ops.convert_to_numpy(v) for v in model.optimizer.variables}
    assert old["stem_conv_kernel_momentum"].any()
    assert all(np.array_equal(now[name], value) for name, value in old.items())
    model.train_on_batch(x, y)
    new.train_on_batch(x, y)  # the gates are 1 in this step, so the base takes the same one
    kept, taken = base_state(model), base_state(new)
    assert all(np.allclose(taken[key], kept[key], rtol=0, atol=1e-3) for key in kept)
    assert all(kernel.any() and np.isfinite(kernel).all() for kernel in eca_state(new).values())
    new.save(tmp_path / "net.keras")
    # A plain Functional's config tells no policy: Keras scales the loss again where the policy of the process says so.
    again = in_half(policy, lambda: keras.saving.load_model(tmp_path / "net.keras"))
    assert type(again.optimizer) is type(new.optimizer)
    np.testing.assert_array_equal(run(again, x)[0], run(new, x)[0])
