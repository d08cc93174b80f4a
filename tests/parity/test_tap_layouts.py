"""Taps of layers in two layouts: permuted by their axes' names, or else by their shapes."""

import numpy as np
import pytest

from eca_multi.parity import Case, Spec, TorchAdapter
from eca_multi.parity.budget.torch_reference import TorchReference
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute.tasks import base_job
from eca_multi.parity.explain.rerun import with_taps
from eca_multi.parity.judge.compare import judge
from eca_multi.parity.judge.layouts import align

STEM, D_STEM = Quantity(Kind.TAP, "stem"), Quantity(Kind.TAP_GRADIENT, "stem")


class First(TorchAdapter):
    """A pooled square of x, channels first."""

    layout = "NCHW"

    def build(self, config):
        import torch

        from eca_multi.parity import tap

        axes = (2, 3) if self.layout == "NCHW" else (1, 2)
        return lambda inputs, weights: tap("stem", inputs["x"] ** 2).mean(axes) * torch.ones(())


class Last(First):
    layout = "NHWC"


def spec(taps):
    return Spec(
        "Pooled", "NCHW", {}, {"torch": First}, First, config={"N": 2, "C": 3, "H": 5, "W": 4}, outputs={"y": "N C"},
        taps=taps, cases=(Case("case"),),
    )  # fmt: skip


def job_of(taps, **sizes):
    made = spec(taps)
    case = Case("case", config=sizes)
    return base_job(made, case, draw(made, case), "float32")


def run(job):
    job = Job(**{**vars(job), "taps": ("stem",)})
    return job, TorchEngine(Last()).evaluate(job), TorchReference(First()).solve(job)


def right(results, solution, quantity):
    value, error = solution[quantity]
    return judge(results[quantity], value, error, None, 4.0).verdict.green


def test_a_tap_with_axes_is_permuted_as_an_output_is():
    _, results, solution = run(job_of({"stem": "N C H W"}))
    assert results[STEM].values.shape == (2, 3, 5, 4)
    assert right(results, solution, STEM)
    assert right(results, solution, D_STEM)


def test_a_given_tap_comes_in_the_references_order():
    """The reference goes on from the runner's tap and its gradient, which are in the specification's order."""
    job, results, _ = run(job_of({"stem": "N C H W"}))
    other = Spec("Pooled", "NCHW", {}, {"torch": Last}, Last, taps={"stem": "N C H W"})
    assert dict(other.taps) == {"stem": "N C H W"}
    isolated = TorchReference(Last()).solve(with_taps(job, results))
    assert all(right(results, isolated, q) for q in (STEM, D_STEM, Quantity(Kind.OUTPUT, "y")))


def test_a_tap_without_axes_is_permuted_by_its_shape():
    job, results, solution = run(job_of(("stem",)))
    assert results[STEM].values.shape == (2, 5, 4, 3)
    aligned = align(job, results, solution, 4.0)
    assert aligned.unclear == ()
    assert right(aligned.results, solution, STEM)
    assert right(aligned.results, solution, D_STEM)


def test_of_several_orders_the_one_that_moves_one_axis_is_taken():
    job, results, solution = run(job_of(("stem",), H=4))
    assert right(align(job, results, solution, 4.0).results, solution, STEM)


def test_a_cube_is_permuted_where_the_reference_agrees():
    job, results, solution = run(job_of(("stem",), H=3, W=3, C=3))
    assert not right(results, solution, STEM)
    assert right(align(job, results, solution, 4.0).results, solution, STEM)


def test_a_fault_in_a_tap_of_another_layout_is_still_a_fault():
    job, results, solution = run(job_of(("stem",)))
    wrong = {**results, STEM: Tensor(results[STEM].values * 1.01, "float32")}
    aligned = align(job, wrong, solution, 4.0)
    assert aligned.results[STEM].values.shape == solution[STEM][0].shape
    assert not right(aligned.results, solution, STEM)


def test_an_order_that_nothing_tells_is_said():
    """Two orders fit, none moves one axis alone, and none agrees."""
    job = Job("case", "float32", {}, {}, ("y",), taps=("stem",))
    solution = {STEM: (np.ones((2, 2, 3, 3)), np.full((2, 2, 3, 3), 1e-7))}
    results = {STEM: Tensor(np.zeros((3, 3, 2, 2), np.float32), "float32")}
    aligned = align(job, results, solution, 4.0)
    assert aligned.unclear == ("stem",)
    assert STEM not in aligned.results


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 5)])
def test_a_wrong_shape_stays_a_wrong_shape(shape):
    job, results, solution = run(job_of(("stem",)))
    wrong = {**results, STEM: Tensor(np.zeros(shape, np.float32), "float32")}
    aligned = align(job, wrong, solution, 4.0)
    assert aligned.unclear == ()
    assert aligned.results[STEM].values.shape == shape
