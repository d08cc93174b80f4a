"""Outputs without sizes in the specification: the reference's run gives them, and with them the cotangents."""

from dataclasses import replace

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity import Case, NumpyAdapter, Spec, SpecError, Training, normal
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.sources import Draw
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.execute.cotangents import cotangents_for


class Centred(NumpyAdapter):
    """y = x - mean(x), whose sum has gradient zero: ones for a cotangent show nothing."""

    def build(self, config):
        def centred(inputs, weights):
            x = inputs["x"] * weights["s"]
            return x - x.mean(-1, keepdims=True), x.sum()

        return centred

    def gradients(self, inputs, weights, cotangents, config):
        g = cotangents["y"]
        g = g - g.mean(-1, keepdims=True) + cotangents.get("total", 1.0)
        return {"dx": g * weights["s"], "ds": (g * inputs["x"]).sum(0)}


class Detached(Centred):
    def gradients(self, inputs, weights, cotangents, config):
        ones = np.broadcast_to(cotangents.get("total", np.float32(1)), inputs["x"].shape)
        return {"dx": ones * weights["s"], "ds": (ones * inputs["x"]).sum(0)}


SPEC = Spec(
    "Centred",
    "N C",
    {"s": "C"},
    {"numpy-right": Centred, "numpy-off": Detached},
    Centred,
    outputs={"y": "N K", "total": ""},
    cases=(Case("only"),),
    dtypes=("float32",),
)


@pytest.mark.slow
def test_cotangents_are_drawn_after_the_references_run():
    report = parity.run(SPEC, checks=["forward", "input_grad"])
    green = {(cell.runner, cell.tensor): cell.verdict.green for cell in report.cells}
    assert not green.pop(("numpy-off", "dx"))
    assert all(green.values()), green  # dx@ones of the detached layer, too
    assert ("numpy-right", "dx") in green


OUTPUTS = {"y": np.zeros((2, 5)), "total": np.array(0.0), "index": np.arange(3)}


def answers(**changes):
    arrays = {**OUTPUTS, **changes}
    return {Quantity(Kind.OUTPUT, name): Tensor(array, array.dtype.name) for name, array in arrays.items()}


JOB = Job("only", "float32", {"N": 2}, {"y": ("N", "K")}, ("y", "total", "index"))


def test_numbers_and_integers_have_no_drawn_cotangent():
    drawn = cotangents_for(JOB, answers())
    assert {name: array.shape for name, array in drawn.items()} == {"y": (2, 5)}
    np.testing.assert_array_equal(drawn["y"], cotangents_for(JOB, answers())["y"])
    assert not np.array_equal(drawn["y"], cotangents_for(replace(JOB, case="other"), answers())["y"])


@pytest.mark.parametrize("shape", [(2, 5, 1), (3, 5), (2,)])
def test_axes_that_the_reference_does_not_have_are_one_line(shape):
    with pytest.raises(SpecError, match=r"'y' must have the axes of the specification, 'N K'\. Received: shape \(\d"):
        cotangents_for(JOB, answers(y=np.zeros(shape)))


def test_an_input_without_a_size_is_one_line():
    with pytest.raises(SpecError, match=r"each axis of 'x' must have a size. Received: 'N Q' and no integer 'Q'"):
        draw(replace(SPEC, inputs={"x": "N Q"}), SPEC.cases[0])


def test_a_failing_reference_is_named_before_anything_is_compared():
    class Broken(Centred):
        def build(self, config):
            raise ValueError("no such layer")

    with pytest.raises(SpecError, match=r"the reference failed on case only: ValueError: no such layer"):
        parity.run(replace(SPEC, reference=Broken), checks=["forward", "input_grad"])


@pytest.mark.slow
def test_training_on_a_loss_keeps_the_other_outputs_out():
    """The case of the two outputs: y has a size that the reference gives, total is the loss."""
    trained = replace(SPEC, runners={"numpy": Centred}, training=Training(steps=2, loss="total"))
    assert parity.run(trained, checks=["trajectory"]).exit_code == 0


def product(rng, config):
    return {"x": rng.normal(size=(2, 3)) @ rng.normal(size=(2, 3))}


def nothing(rng, shape):
    raise RuntimeError("no data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": (Case("a", draw=product),)}, r"draw of case a must not raise\. It raised ValueError: matmul.*\.py:"),
        ({"cases": (Case("a", draw=lambda rng, config: None),)}, "draw of case a must return arrays by name.*NoneType"),
        (
            {"weights": {"s": Draw("C", nothing)}},
            "the generator of 's' must not raise. It raised RuntimeError: no data",
        ),
    ],
    ids=["draw raises", "draw returns nothing", "a generator raises"],
)
def test_what_a_users_generator_raises_is_one_line(changes, message):
    spec = replace(SPEC, **changes)
    with pytest.raises(SpecError, match=message):
        draw(spec, spec.cases[0])
    right = replace(SPEC, weights={"s": normal("C")})
    assert draw(right, right.cases[0]).weights["s"].shape == (12,)
