"""The frameworks' own optimizers in the trajectory check: one step of each beside the textbook's rule in float64."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity import NumpyAdapter, Spec, TorchAdapter, Training, UsageError
from eca_multi.parity.define.optimizers import OPTIMIZERS
from eca_multi.parity.report.report import describe

OURS = [pytest.param("torch"), *(pytest.param(name, marks=pytest.mark.slow) for name in ("optax", "nnx", "keras"))]
EXACT = 1e-6  # of a step, in float32
FLOAT32_POWER = 2e-5  # where 1 - 0.999^t is taken in float32


class Torch(TorchAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]


class Numpy(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]

    def gradients(self, inputs, weights, cotangents, config):
        dy = cotangents["y"]
        return {"dx": dy * weights["s"], "ds": (dy * inputs["x"]).sum(0)}


SPEC = Spec(
    "Scale",
    layout="N C",
    weights={"s": "C"},
    runners={"torch": Torch, "numpy": Numpy},
    reference=Torch,
    training=Training(steps=3, optimizer="adam", rate=1e-3, cases=("offsets",)),
)


def trained(spec: Spec, **options):
    return parity.run(spec, cases="offsets", checks="trajectory", **{"dtypes": "float32", **options})


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("module", OURS)
def test_a_step_is_that_of_the_textbook(module, kind, rng):
    """From weights of 0, so that the step itself is seen; at the first step, and with a state."""
    rule = import_module(f"eca_multi.parity.engines.optimizer_{module}").optimizer(kind)
    grads = {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": np.float32(rng.normal(size=()))}
    state = {f"m.{n}": 0.3 * g for n, g in grads.items()} | {f"v.{n}": g * g + 0.01 for n, g in grads.items()}
    tolerance = FLOAT32_POWER if kind == "adam" and module != "torch" else EXACT
    for step in (1, 2, 10, 1000):
        slots = {n: np.asarray(s, np.float32) for n, s in state.items() if step > 1 and (kind, n[0]) in KEPT}
        weights = {name: np.zeros_like(g) for name, g in grads.items()}
        new, new_slots = rule.update(weights, grads, slots, step, np.float32(1e-3))
        wide = [{n: np.asarray(a, np.float64) for n, a in arrays.items()} for arrays in (weights, grads, slots)]
        expected, expected_slots = OPTIMIZERS[kind](*wide, step, 1e-3)
        for received, right in ((new, expected), (new_slots, expected_slots)):
            assert set(received) == set(right)
            for name in right:
                np.testing.assert_allclose(received[name], right[name], rtol=tolerance)
    assert not any(weights[name].any() for name in weights)  # what it was given is as it was


KEPT = {("momentum", "m"), ("adam", "m"), ("adam", "v")}


@pytest.mark.slow
def test_a_training_with_torchs_ownoptimizer_agrees_and_says_whose_it_is():
    report = trained(SPEC, optimizer="native", runners="torch")
    assert report.exit_code == 0
    assert [(cell.tensor, cell.reason) for cell in report.cells] == [("step.s", "torch.optim.Adam")]
    assert [one.optimizer for one in report.trajectories] == ["adam, native"]


@pytest.mark.slow
def test_the_textbooks_rule_is_the_default():
    report = trained(SPEC, runners=["torch", "numpy"])
    assert report.exit_code == 0
    assert {cell.reason for cell in report.cells} == {""}
    assert {one.optimizer for one in report.trajectories} == {"adam"}


@pytest.mark.slow
def test_numpy_has_no_optimizer():
    report = trained(SPEC, optimizer="native", runners="numpy")
    assert report.exit_code == 4
    assert {cell.reason for cell in report.cells} == {"the framework has no optimizers"}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_each_frameworks_ownoptimizer_trains(optimizer):
    """Adam's convention may cost the budget, and the line of the failure says which it is."""
    from eca_multi.parity.specs import layer_norm

    training = Training(steps=4, optimizer=optimizer, rate=1e-3, cases=("offsets",))
    report = trained(replace(layer_norm.SPEC, training=training), optimizer="native", timeout=600)
    whose = {cell.runner: cell.reason.split(",")[0] for cell in report.cells}
    torch, optax, keras = (
        ("torch.optim.Adam", "optax.adam", "keras.optimizers.Adam")
        if optimizer == "adam"
        else ("torch.optim.SGD", "optax.sgd", "keras.optimizers.SGD")
    )
    ours = {"torch": torch, "linen": optax, "nnx": f"nnx.Optimizer of {optax}"}
    assert whose == ours | {f"keras-{backend}": keras for backend in ("tensorflow", "jax", "torch")}
    assert all(cell.green for cell in report.cells if optimizer == "momentum" or cell.runner == "torch")
    for cell in report.failures:
        assert "1 - 0.999^t in float32" in describe(cell)
        assert cell.judgement.budget_use < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam", "checks": "trajectory"}, "optimizer must be one of textbook, native. Received: 'adam'"),
        ({"optimizer": "native", "checks": "forward"}, "optimizer='native' is for the check trajectory"),
    ],
)
def test_anoptimizer_that_would_do_nothing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        parity.run(SPEC, **options)
