"""What surgery on a Keras network refuses, and that the model then is as it was."""

import keras
import pytest
from keras import layers as L

from eca_multi.keras import (
    base_state,
    eca_parameters,
    insert_eca,
    installed_eca,
    plan_eca,
    remove_eca,
)
from eca_multi.keras.surgery._find.graph import Network
from eca_multi.keras.surgery._wrap.installed import InsertedECA
from eca_multi.surgery.errors import ChannelInferenceError, NoSiteError, UnsupportedModelError, VerifyError
from tests.support.surgery_keras_nets import data, resnet, trace_of

pytestmark = pytest.mark.keras


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x)


class OwnCall(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def own_call():
    inputs = keras.Input((8, 8, 3))
    return OwnCall(inputs, L.Conv2D(4, 3)(inputs))


def nested_subclass():
    return keras.Sequential([keras.Input((8, 8, 3)), Subclassed(name="inner")], name="outer")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, r"Functional or Sequential keras.Model. Received: int"),
        (lambda: L.Conv2D(4, 3, name="conv"), r"the layer 'conv' \(Conv2D\). Put it into keras.Sequential"),
        (lambda: Subclassed(name="mine"), r"'mine', a subclassed model \(Subclassed\)"),
        (nested_subclass, r"'inner', a subclassed model \(Subclassed\)"),
        (own_call, r"whose class OwnCall has a call of its own"),
    ],
    ids=["no-model", "layer", "subclassed", "nested-subclassed", "own-call"],
)
def test_models_that_cannot_be_changed(make, message):
    model = make()
    for function in (plan_eca, insert_eca, remove_eca, installed_eca, eca_parameters, base_state):
        with pytest.raises(UnsupportedModelError, match=message):
            function(model)


def test_a_traced_model_is_refused():
    model = resnet()
    before = trace_of(model)

    class Asks(L.Layer):
        def call(self, x):
            insert_eca(model)
            return x

    with pytest.raises(Exception, match="'resnet' while a function is being traced"):
        Asks()(keras.Input((3,)))  # Keras traces the layer's call to know its output
    assert trace_of(model) == before


def test_arguments_are_checked():
    model = resnet()
    for verb in (plan_eca, insert_eca):
        with pytest.raises(ValueError, match=r"where='slot'. It fills the empty attention slots of timm's"):
            verb(model, "slot")
    with pytest.raises(ValueError, match=r"Did you mean 'residual'"):
        plan_eca(model, "residuals")
    with pytest.raises(ValueError, match=r"plan must stand alone.*Received: plan and kernel_size"):
        insert_eca(model, plan=plan_eca(model), kernel_size=3)
    with pytest.raises(TypeError, match=r"plan must be an ECAPlan. Received: str"):
        insert_eca(model, plan="plan.json")
    with pytest.raises(ValueError, match=r"verify=True must come with example_inputs"):
        insert_eca(model, verify=True)
    with pytest.raises(NoSiteError, match=r"include must match a site"):
        insert_eca(model, include="nothing")
    with pytest.raises(ValueError, match=r"init"):
        plan_eca(model, gate="sigmoid")


def test_channels_that_nobody_knows():
    model = keras.Sequential([L.Dense(4), L.BatchNormalization(name="bn"), L.Conv2D(8, 3, name="conv")])
    with pytest.raises(ChannelInferenceError, match=r"at 'bn' \(BatchNormalization\).*Pass example_inputs"):
        plan_eca(model, "norm")
    assert plan_eca(model, "norm", example_inputs=data((2, 8, 8, 3))).entries[0].channels == 4
    assert plan_eca(model, "norm", kernel_size=3).entries[0].channels == 0
    assert plan_eca(model, "conv").entries[0].channels == 8
    assert not model.built


@pytest.mark.parametrize("site", [0, 1])
def test_a_failure_on_the_way_leaves_the_model_as_it_was(site, monkeypatch):
    model = resnet()
    model.compile("sgd", "mse")
    before, optimizer = trace_of(model), model.optimizer
    built = []
    build = InsertedECA.build

    def failing(self, shape):
        built.append(self.name)
        if len(built) == site + 1:
            raise RuntimeError("out of luck")
        build(self, shape)

    monkeypatch.setattr(InsertedECA, "build", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        insert_eca(model)
    assert trace_of(model) == before
    assert model.optimizer is optimizer


def test_verification_finds_a_changed_output_and_a_lost_call(monkeypatch):
    model, x = resnet(), data()
    plan = plan_eca(model)
    with monkeypatch.context() as patch:
        call = InsertedECA.call
        patch.setattr(InsertedECA, "call", lambda self, x, mask=None: call(self, x, mask) * 1.001)
        with pytest.raises(VerifyError, match="outputs differ"):
            insert_eca(model, example_inputs=x)
        insert_eca(model, example_inputs=x, verify=False)
    with monkeypatch.context() as patch:
        patch.setattr(Network, "times", lambda self, operation: 0)
        with pytest.raises(VerifyError, match="block0_2_bn: base called 1 times, its ECA 0"):
            insert_eca(model, plan=plan, example_inputs=x, verify=True)


def test_a_layer_that_cannot_be_made_again():
    class Odd(L.Layer):
        def __init__(self, function, **kwargs):
            super().__init__(**kwargs)
            self.function = function

        def call(self, x):
            return self.function(x)

    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="conv")(Odd(lambda x: x, name="odd")(inputs))
    with pytest.raises(UnsupportedModelError, match=r"Received: 'odd' \(Odd\), which cannot.*Give Odd a get_config"):
        insert_eca(keras.Model(inputs, x), "conv")
