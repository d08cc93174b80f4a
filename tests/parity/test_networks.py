"""The specification of whole networks: its data, and that it tells a wrong network from a right one."""

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.runners import reference_of
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.execute.worker import make_engine
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.specs import networks
from eca_multi.parity.specs._network_data import APART, CLEAR, _Walk, network_data

torch = pytest.importorskip("torch")
TORCH = reference_of(networks.SPEC).adapter
CASES = {case.name: case for case in (*networks.SPEC.cases, *networks.ALL.cases)}
# One of each part of a network: plain, deep and tiered stem, both activations, pooled shortcuts, groups, signals.
PARTS = [
    "eca-resnet18-training",
    "eca-mobilenet-v2",
    pytest.param("eca-resnet18-1d-training", marks=pytest.mark.slow),
    pytest.param("eca-mobilenet-v2-features-training", marks=pytest.mark.slow),
    pytest.param("ecaresnet26t", marks=pytest.mark.slow),
    pytest.param("ecaresnext26t-32x4d-features", marks=pytest.mark.slow),
]


def built(case):
    """The case's data, and torch's network in float64 with its weights."""
    drawn = draw(networks.SPEC, case)
    adapter = networks.Torch()
    model = adapter.build(drawn.config).double().train(drawn.config["training"])
    state = {}
    arrays = {**drawn.weights, **drawn.state}
    for native, entry in adapter.weights_for(drawn.config).items():
        if entry is not None:
            array = arrays[entry.partition(":")[0]]
            state[native] = torch.from_numpy(array.reshape(model.state_dict()[native].shape).copy())
    model.load_state_dict(state, strict=False)
    return drawn, model


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_the_walk_that_draws_the_weights_computes_the_network(name):
    """NumPy's forward pass, which knows no framework, and torch's."""
    drawn, model = built(CASES[name])
    config = CASES[name].config
    walk = _Walk(int(np.random.default_rng(list(name.encode())).integers(2**32)), drawn.config)
    data = walk.everything()
    np.testing.assert_array_equal(data["x"], drawn.inputs["x"])
    with torch.no_grad():
        outputs = model(torch.from_numpy(drawn.inputs["x"]))
    if config["features"]:
        network = walk.network
        expected = [walk.features[feature.path] for feature in network.features]
        if network.activation_after_add:
            expected = [walk.activate(value) for value in expected]
    else:
        outputs, expected = [outputs], [walk.logits]
    for output, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output.numpy(), value[: len(output)], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_no_value_is_near_a_kink(name):
    drawn, model = built(CASES[name])
    distances, gaps = [], []

    def at_activation(module, inputs):
        kinks = (0.0, 6.0) if isinstance(module, torch.nn.ReLU6) else (0.0,)
        distances.append(min((inputs[0] - kink).abs().min().item() for kink in kinks))

    def at_pool(module, inputs):
        pool = torch.nn.functional.unfold if inputs[0].ndim == 4 else None
        if pool is not None:
            first, second = pool(inputs[0], 3, padding=1, stride=2).unflatten(1, (-1, 9)).topk(2, dim=2)[0].unbind(2)
            gaps.append((first - second)[first > 0].min().item())

    for module in model.modules():
        if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6):
            module.inplace = False
            module.register_forward_pre_hook(at_activation)
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_pre_hook(at_pool)
    with torch.no_grad():
        model(torch.from_numpy(drawn.inputs["x"]))
    assert min(distances) > CLEAR * 0.999
    assert min(gaps, default=APART) >= APART * 0.999


def test_weights_drawn_without_care_are_near_kinks():
    """The control: before a bias is moved, many values are."""
    config = draw(networks.SPEC, CASES["eca-resnet18-training"]).config
    walk = _Walk(0, config)
    walk.move = lambda name, forbidden, chosen=None: 0.0
    seen = []
    walk.activate = lambda y: (seen.append(np.abs(y).min()), np.maximum(y, 0))[1]
    with pytest.raises(RuntimeError, match="that keeps all values off the activation's kinks"):
        walk.everything()
    assert min(seen) < CLEAR


def test_the_data_of_a_case_is_the_same_each_time():
    first, second = (draw(networks.SPEC, CASES["eca-resnet18"]) for _ in range(2))
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, second.weights[name])
    assert network_data.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("case", networks.SPEC.cases, ids=lambda case: case.name)
def test_every_case_has_weights_that_are_clear_of_kinks(case):
    drawn = draw(networks.SPEC, case)
    assert set(drawn.weights) == set(case.weights)


def test_each_kind_of_network_has_four_cases():
    assert len(networks.SPEC.cases) == 12
    assert {case.config["network"] for case in networks.ALL.cases} == set(networks.NETWORKS)


class Wrong(networks.Torch):
    """A network that is wrong in one thing."""

    def wrong(self, model):
        raise NotImplementedError

    def build(self, config):
        model = super().build(config)
        self.wrong(model)
        return model


class OtherMomentum(Wrong):
    def wrong(self, model):
        model.layer4[1].bn2.momentum = 0.01


class OtherEps(Wrong):
    def wrong(self, model):
        model.layer1[0].bn1.eps = 1e-3  # the default of Keras


class StrideElsewhere(Wrong):
    def wrong(self, model):
        block = model.layer2[0]
        block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)


class FlippedKernel(Wrong):
    def wrong(self, model):
        eca = model.layer3[1].eca
        eca.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(1),))
        eca.register_forward_hook(lambda module, inputs, output: output.flip(1))


@pytest.fixture(scope="module")
def forward():
    """A training step's outputs and statistics: the task, its solution, and the judge."""
    case = CASES["eca-resnet18-features-training"]
    reference = make_engine("reference", reference_of(networks.SPEC).adapter)
    (task,) = tasks(networks.SPEC, [case], ["float32"], ("forward",))
    return task, reference.solve(task.job), Judge(("forward",), reference.kind)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [networks.Torch, OtherMomentum, OtherEps, StrideElsewhere, FlippedKernel])
def test_a_wrong_network_is_told_from_a_right_one(adapter, forward):
    task, solution, by = forward
    engine = make_engine("runner", f"{__file__}:{adapter.__name__}" if adapter is not networks.Torch else TORCH)
    wrong = {c.tensor for c in by.cells("torch", task, engine.evaluate(task.job), solution) if not c.green}
    if adapter is networks.Torch:
        assert wrong == set()
    elif adapter is OtherMomentum:
        assert wrong == {"new_layer4.1.bn2.running_mean", "new_layer4.1.bn2.running_var"}
    else:
        assert wrong >= {"features4"}


@pytest.mark.slow
def test_every_framework_computes_the_same_network():
    """Feature maps and running statistics of one step; `eca-multi parity networks` compares gradients and more."""
    report = parity.run(
        "networks",
        cases=["eca-mobilenet-v2-features-training"],
        checks=["forward"],
        require=["torch", "keras-tensorflow", "keras-jax", "keras-torch", "linen", "nnx"],
        timeout=600,
    )
    report.raise_for_status()
