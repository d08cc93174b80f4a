"""ECA's analytic budget holds for a right layer: every case in every dtype on torch, in this process.

A parity run takes minutes; without one, a term dropped from the budget went unseen, although a right layer then failed
449-fold. The cases that are added here reach each path of eca_multi.torch that a map's size or batch decides on.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from eca_multi import reference
from eca_multi.parity import Case
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.job import identified
from eca_multi.parity.define.tensor import Kind, Quantity
from eca_multi.parity.engines.torch import TorchEngine
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.judge.compare import Verdict
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.specs._eca_oracle import solve
from eca_multi.parity.specs.eca import SPEC, Torch
from eca_multi.torch._fast import choose

CHECKS = (*BASE, "taps")
JUDGE = Judge(CHECKS, "analytic")
OPTIONS = list(product(("zeros", "circular"), ("sigmoid", "hard_sigmoid", "2sigmoid"), (True, False)))


def crossed(prefix, why, padding, gate, shared, **config):
    """A case of one combination of the options."""
    name = f"{prefix}-{padding}-{gate}-{'shared' if shared else 'own'}".replace("_", "-")
    config |= {"padding": padding, "gate": gate, "shared": shared}
    return Case(name, why, config, weights={} if shared else {"w": "C k"})


def one_sample():
    small = {"N": 1, "C": 12, "H": 7, "W": 5, "k": 5}
    return [crossed("one-sample", "one sample has a path of its own", *options, **small) for options in OPTIONS]


def large_maps():
    large = {"N": 2, "C": 20, "H": 31, "W": 29, "k": 5}
    return [
        crossed(f"large-{channels}", "above the fused threshold", *options, channels=channels, **large)
        for channels, options in product(("usual", "other"), OPTIONS)
    ]


ADDED = [*one_sample(), *large_maps()]
CASES = {c.name: c for c in (*SPEC.cases, *ADDED)}


@pytest.fixture(scope="module")
def engine():
    return TorchEngine(Torch())


def judged(engine, name, dtype, change=lambda results: results):
    spec = replace(SPEC, cases=(CASES[name],))
    cells = []
    for task in tasks(spec, spec.cases, [dtype], CHECKS):
        cells += JUDGE.cells("torch", task, change(engine.evaluate(task.job)), identified(solve(task.job), task.job))
    assert cells
    return cells


def wrong(cells):
    """The tensors that are not green. A tap in half precision may be undecided: a gate's gradient may cancel."""
    return [
        (cell.check, cell.tensor, cell.dtype, cell.verdict.value, cell.judgement.budget_use)
        for cell in cells
        if not cell.green and not (cell.check == "taps" and cell.dtype != "float32" and is_undecided(cell))
    ]


def is_undecided(cell):
    return cell.verdict is Verdict.INCONCLUSIVE


def each_case():
    """Every case in every dtype; the photographs in half precision take as long as all others together."""
    for name, dtype in product((case.name for case in SPEC.cases), DTYPES):
        is_long = name == "photographs" and dtype != "float32"
        yield pytest.param(name, dtype, id=f"{name}-{dtype}", marks=[pytest.mark.slow] if is_long else [])


@pytest.mark.parametrize(("name", "dtype"), list(each_case()))
def test_every_case_is_within_its_budget(engine, name, dtype):
    assert wrong(judged(engine, name, dtype)) == []


@pytest.mark.parametrize("name", [case.name for case in ADDED])
def test_every_path_is_within_its_budget(engine, name):
    assert wrong(judged(engine, name, "float32")) == []


# --- the values are the reference's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circular", "per-channel", "padded-sequences"])
@pytest.mark.parametrize("function", ["forward", "backward"])
def test_every_value_of_the_oracle_is_the_references(monkeypatch, name, function):
    """A fault put into the reference, 1 added to each of its results, is in every value that runners are judged by."""
    job, right = job_of(name), getattr(reference, function)
    before = solve(job)

    def faulty(*arguments, **options):
        results = right(*arguments, **options)
        return type(results)(*(value + 1 for value in vars(results).values()))

    monkeypatch.setattr(reference, function, faulty)
    after = solve(job)
    backward = {"d_gate", "d_conv", "d_pooled", "dx", "dx@ones", "dw", "dw@ones"}
    assert set(after) == backward | {"pooled", "conv", "gate", "y"}
    if function == "forward":
        assert all((after[label][0] == before[label][0] + 1).all() for label in set(after) - backward)
    else:
        assert all((after[label][0] == before[label][0] + 1).all() for label in backward)


# --- the budget of a stage covers the errors of those before it ------------------------------------------------------


def moved_by_their_errors(job, solved, signs):
    """The solution where some stages are off by exactly their error, in these directions."""
    moved = {name: solved[name][0] + sign * solved[name][1] for name, sign in signs.items()}
    given = identified(moved, replace(job, taps=SPEC.taps))
    return solve(replace(job, given=given))


def share_of_budget(solved, moved, name):
    """How much of a budget (without its factor c) the move of one result takes, at each element."""
    value, error = solved[name]
    return np.abs(moved[name][0] - value) / error


def job_of(name):
    (task,) = tasks(replace(SPEC, cases=(CASES[name],)), [CASES[name]], ["float32"], BASE)
    return task.job


@pytest.mark.parametrize(
    "name", ["offsets", "saturated", "circular", "per-channel", "padded-sequences", "one-position"]
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_error_of_the_gate_is_within_the_budgets_of_y_and_dx(name, sign):
    job = job_of(name)
    solved = solve(job)
    moved = moved_by_their_errors(job, solved, {"gate": sign})
    for result in ("y", "dx"):
        # A term of second order is a millionth of one of first order.
        assert share_of_budget(solved, moved, result).max() <= 1.0001


@pytest.mark.parametrize("name", ["offsets", "same-sign", "one-position", "per-channel", "circular"])
def test_errors_of_both_factors_are_within_the_budget_of_dw(name):
    """The middle tap's gradient is a sum of products mean * d_logit; both are off so that every product grows."""
    job = job_of(name)
    solved = solve(job)
    signs = {"pooled": np.sign(solved["d_conv"][0]), "d_conv": np.sign(solved["pooled"][0])}
    moved = moved_by_their_errors(job, solved, signs)
    middle = share_of_budget(solved, moved, "dw")[..., job.config["k"] // 2]
    assert middle.max() <= 1.0001
    assert middle.max() > 0.3  # or else the budget would be far too wide, and this test see nothing


def test_the_added_maps_are_on_their_side_of_the_threshold():
    cases = [*ADDED, *(case for case in SPEC.cases if case.name.startswith(("large", "one-sample")))]
    assert len(cases) > len(ADDED)
    sizes = {name: [config[axis] for axis in "NCHW"] for name, config in ((c.name, c.config) for c in cases)}
    for name, (n, c, h, w) in sizes.items():
        assert (n * c * h * w >= choose.SMALL) == name.startswith("large"), name
        assert (n == 1) == name.startswith("one-sample"), name


def test_a_tensor_off_by_three_percent_is_seen(engine):
    """The control: what a wrong wrap-around did to dx."""

    def change(results):
        dx = Quantity(Kind.INPUT_GRADIENT, "x")
        if dx not in results:
            return results
        return {**results, dx: replace(results[dx], values=results[dx].values * 1.03)}

    cells = judged(engine, ADDED[0].name, "float32", change)
    assert {cell.tensor for cell in cells if cell.verdict is Verdict.EXCEEDS_BUDGET} == {"dx"}
