"""What a worker says may be anything: it costs its own cells, whatever it is, and nobody else's."""

import json
import resource
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eca_multi import parity
from eca_multi.parity import CHECKS, Case, NumpyAdapter, Runner, Spec, Training, Verdict
from eca_multi.parity.define.job import results_of
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.execute import worker
from eca_multi.parity.execute.messages import (
    LONGEST,
    TEXT,
    Computed,
    Do,
    Done,
    Explained,
    Greeting,
    Malformed,
    Measured,
    Raised,
    Request,
    parse,
)
from eca_multi.parity.execute.session import Results
from eca_multi.parity.execute.tasks import tasks
from eca_multi.parity.execute.training import PERTURBED, TRAINED, check_trained, marks
from eca_multi.parity.judge.drift import measure_drift
from eca_multi.parity.judge.verdicts import Judge
from tests.support.forged_worker import CONTROL, FORGED

HERE = Path(__file__)


class Truth(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] * weights["s"]


class Scale(NumpyAdapter):
    """By another way than the reference."""

    def build(self, config):
        return lambda inputs, weights: inputs["x"] / (1 / weights["s"])


SPEC = Spec("Scale", "N C", weights={"s": "C"}, reference=Truth, runners={"numpy": Scale}, cases=(Case("offsets"),))


def quick(spec, **options):
    return parity.run(spec, **{"dtypes": ["float32"], "checks": ["forward"], **options})


def forger(folder: Path) -> str:
    """An interpreter that is none: whatever it is told to run, it is the worker that lies."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\nexec {sys.executable} -S -E {HERE.parents[1] / 'support' / ('forged_worker.py')}\n")
    file.chmod(0o755)
    return str(file)


def forging(python: str, name: str, **more: str) -> Runner:
    return Runner(name, f"{HERE}:Scale", python=python, env={"PARITY_TEST_FORGE": name, **more})


# --- forged --------------------------------------------------------------------------------------------------------

NO_FAULT = ("closed at once", "done twice")  # the one has crashed; the other's answer came before the fault


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """One run of a right runner among all the others, with its report as JSON."""
    python = forger(tmp_path_factory.mktemp("forged"))
    runners = {f"numpy-{name.replace(' ', '-')}": forging(python, name) for name in (*FORGED, *CONTROL)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = quick(replace(SPEC, runners={"numpy": Scale, **runners}), timeout=60)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return report, json.loads(report.to_json()), grown


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_message_costs_its_own_runner(forged, name):
    report, plain, _ = forged
    own = f"numpy-{name.replace(' ', '-')}"
    [state] = [state for state in report.runners if state.name == own]
    assert not [cell for cell in report.cells if cell.runner == own and cell.green]
    assert own in [row["name"] for row in plain["runners"]]
    if name not in NO_FAULT:
        assert state.state == "crashed"
        assert "what is no answer: " in state.detail
    assert len(state.detail) < 2 * TEXT


def test_the_others_of_a_run_with_liars_are_judged(forged):
    report, *_ = forged
    [cell] = [cell for cell in report.cells if cell.runner == "numpy"]
    assert cell.green
    assert report.ran == ["numpy", "numpy-a-right-one", "numpy-no-budget"]


def test_a_right_message_of_the_same_kind_is_compared(forged):
    """A stranger's worker that says what it should is no liar, and its numbers are judged."""
    report, *_ = forged
    for name in CONTROL:
        [cell] = [cell for cell in report.cells if cell.runner == f"numpy-{name.replace(' ', '-')}"]
        assert cell.verdict is Verdict.SHAPE_MISMATCH
    assert report.exit_code == 1


def test_a_line_without_an_end_is_not_kept(forged):
    """It is of 1 GiB."""
    *_, grown = forged
    assert grown < 200_000  # KiB


@pytest.mark.parametrize("name", ["no JSON", "id of nobody", "no file", "done too early", "budget a list", "no budget"])
def test_a_reference_that_lies_is_exit_3_with_a_report(tmp_path, monkeypatch, name):
    """As any other that dies: what cannot be judged any more is inconclusive."""
    liar = forging(forger(tmp_path), name)
    run = sys.modules["eca_multi.parity.run"]  # whose name in the package is that of its function
    monkeypatch.setattr(run, "reference_of", lambda spec: replace(liar, name="reference", role="reference"))
    report = quick(SPEC)
    assert report.exit_code == 3
    assert [(cell.runner, cell.verdict) for cell in report.cells] == [("numpy", Verdict.INCONCLUSIVE)]
    assert "the reference crashed" in report.cells[0].reason
    assert [state.name for state in report.runners] == ["numpy", "reference"]


# --- the parser ----------------------------------------------------------------------------------------------------

RIGHT = {
    '{"versions": {"numpy": "2"}, "budget": "analytic", "cannot": {}}': Greeting({"numpy": "2"}, "analytic"),
    '{"id": 1, "dtypes": {"y": "float32"}}': Computed(1, {"y": "float32"}),
    '{"id": 1, "fingerprint": {"a": 1.5, "b": "x", "c": true}}': Measured(1, {"a": 1.5, "b": "x", "c": True}),
    '{"id": 1, "stages": {"output/drawn/0/0/y": "conv2d relu"}, "causes": {"kernel is flipped": 0.2}}': Explained(
        1, {"output/drawn/0/0/y": "conv2d relu"}, {"kernel is flipped": 0.2}
    ),
    '{"id": 1, "error": "it raised"}': Raised(1, "it raised"),
    '{"done": true}': Done(),
}


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_message_is_taken(line):
    open_ids = () if "done" in line else (1,)
    assert parse(line.encode(), greeted="versions" not in line, asked=True, open_ids=open_ids) == RIGHT[line]


def test_a_text_is_made_short_and_seen():
    """Its beginning and its end stay; no escape reaches a terminal, and no half character a file."""
    text = "first\x1b[31m" + "x" * 10**6 + "\ud800 ValueError: last"
    said = parse(json.dumps({"id": 1, "error": text}).encode(), greeted=True, asked=True, open_ids={1})
    assert said.text.startswith("first\\x1b[31m")
    assert said.text.endswith("\\ud800 ValueError: last")
    assert len(said.text) < TEXT + 200


def test_numbers_that_no_report_could_hold_become_texts():
    line = b'{"id": 1, "fingerprint": {"a": Infinity, "b": 1e400, "c": NaN, "d": 1%s}}' % (b"0" * 40)
    said = parse(line, greeted=True, asked=True, open_ids={1})
    assert said.fingerprint == {"a": "inf", "b": "inf", "c": "nan", "d": "1" + "0" * 40}


@pytest.mark.parametrize("causes", ['{"a": "much"}', '{"a": NaN}', '["a"]', '{"a": [1]}'])
def test_causes_are_texts_with_numbers(causes):
    line = f'{{"id": 1, "stages": {{}}, "causes": {causes}}}'
    with pytest.raises(Malformed, match="causes must"):
        parse(line.encode(), greeted=True, asked=True, open_ids={1})


def test_a_fault_says_no_more_than_is_needed():
    with pytest.raises(Malformed, match="an object") as caught:
        parse(json.dumps(["x" * 10**6]).encode(), greeted=True, asked=True, open_ids={1})
    assert len(str(caught.value)) < 1000


# --- last words ----------------------------------------------------------------------------------------------------


class Shouting(Scale):
    """Dies after 15 lines of 1 MB and, for good measure, 64 MB in one."""

    def build(self, config):
        import os

        for line in [b"x" * 10**6 + b"\n"] * 15 + [b"y" * 10**6] * 64 + [b"\n\x1b[2J last words \xff\n"]:
            os.write(2, line)
        os._exit(9)


class Rambling(Scale):
    def build(self, config):
        raise ValueError("z" * (2 * LONGEST) + "\ud800\x1b[2J the end")


@pytest.fixture(scope="module")
def loud():
    return quick(replace(SPEC, runners={"numpy": Scale, "numpy-shouting": Shouting, "numpy-rambling": Rambling}))


@pytest.mark.slow
def test_last_words_are_bounded_in_bytes(loud):
    [state] = [state for state in loud.runners if state.name == "numpy-shouting"]
    assert state.state == "crashed"
    assert state.detail.startswith("exit status 9\n")
    assert state.detail.endswith("\\x1b[2J last words \ufffd")
    assert len(state.detail) < 2 * TEXT


def test_a_traceback_is_bounded_and_costs_its_own_cells(loud):
    [cell] = [cell for cell in loud.cells if cell.runner == "numpy-rambling"]
    assert cell.verdict is Verdict.ERROR
    assert cell.reason.strip().endswith("\\ud800\\x1b[2J the end")
    assert len(cell.reason) < 2 * TEXT
    assert [cell.green for cell in loud.cells if cell.runner == "numpy"] == [True]


def test_the_last_line_of_a_traceback_says_what_is_wrong():
    """JAX adds a note on its frames to each error, which Python prints after the error."""
    error = ValueError("no such product")
    error.add_note("internal frames were removed")
    text = worker._fault(Request(1, Do.EVALUATE), error).text
    assert text.strip().splitlines()[-1] == "ValueError: no such product"
    assert text.count("internal frames were removed") == 1


def test_a_runner_that_raised_wherever_it_was_asked_has_not_run(loud):
    assert loud.ran == ["numpy"]


def test_what_a_runner_measures_may_be_infinite(loud):
    """JSON has no infinity; the report is written all the same."""
    state = replace(loud.runners[0], fingerprint={"cliff": np.inf})
    assert json.loads(replace(loud, runners=[state]).to_json())["runners"][0]["fingerprint"] == {"cliff": None}


# --- tensors of any kind -------------------------------------------------------------------------------------------

WIDE = replace(
    SPEC,
    state={"mean": "C"},
    taps=("gate",),
    cases=(Case("offsets"), Case("trained")),
    training=Training(steps=3, cases=["trained"]),
)
VALUES = (0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-320)
KINDS = ("float64", "float32", "float16", "int64", "int8", "uint64", "bool")


def some_array(rng, shape):
    shapes = [shape, shape[1:], (*shape, 1), (), (0,), (1, *shape), tuple(reversed(shape))]
    chosen = shapes[rng.integers(len(shapes))]
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cast, which is ours
        return rng.choice(VALUES, size=chosen).astype(KINDS[rng.integers(len(KINDS))])


@pytest.mark.slow
def test_whatever_tensors_a_worker_returns_there_is_a_verdict():
    """800 answers of the right names with values, dtypes and shapes at random: cells, or a worker that is at fault."""
    rng = np.random.default_rng(0)
    plan = tasks(WIDE, list(WIDE.cases), ["float32", "float16"], CHECKS)
    solutions = {id(task): solution_for(task) for task in plan}
    verdicts = set()
    for number in range(800):
        task = plan[number % len(plan)]
        solution = solutions[id(task)]
        stored = [Quantity(Kind.STORED, name) for name in (*task.job.weights, *task.job.state)]
        names = [name for name in [*solution, *stored] if rng.random() < 0.9]
        results = {}
        for name in [*names, *(replace(name, repeated=True) for name in names)]:
            shape = solution[name][0].shape if name in solution else (7,)
            array = some_array(rng, shape) if rng.random() < 0.5 else rng.normal(size=shape).astype(np.float32)
            results[name] = Tensor(array, ["float32", "float16", "made up", str(array.dtype)][rng.integers(4)])
        by = Judge(CHECKS, "stochastic")
        try:
            if task.do is Do.TRAIN:
                check_trained(task.job, {name: tensor.values.shape for name, tensor in results.items()}, TRAINED)
                measure_drift(by, "numpy", task, Results(results, solution))
        except Malformed:
            verdicts.add("malformed")
            continue
        cells = list(by.cells("numpy", task, results, solution))
        json.loads(parity.Report([], cells).to_json())
        verdicts |= {cell.verdict for cell in cells}
    assert {"malformed", Verdict.BITWISE, Verdict.EXCEEDS_BUDGET, Verdict.NONFINITE_MISMATCH} < verdicts
    assert {Verdict.SHAPE_MISMATCH, Verdict.DTYPE_MISMATCH, Verdict.ERROR} < verdicts


def solution_for(task):
    """Numbers of the right shapes, each with an error; some of them are nobody's error."""
    rng = np.random.default_rng(1)
    job, steps = task.job, 3
    if task.do is Do.TRAIN:
        kinds = [(kind, 0) for kind in (Kind.START, Kind.STEP, Kind.FREE)] + [(Kind.BAND, r) for r in range(PERTURBED)]
        shapes = {Quantity(k, n, run=r): (steps, *w.shape) for n, w in job.weights.items() for k, r in kinds}
        assert len(marks(steps)) == 3
    else:
        x, s = job.inputs["x"].shape, job.weights["s"].shape
        shapes = {q: s if q.name in ("s", "mean") else x for q in results_of(replace(job, taps=WIDE.taps))}
    found = {}
    for name, shape in shapes.items():
        error = rng.choice([0.0, 1e-3, np.inf, np.nan, 1e308], size=shape)
        found[name] = rng.normal(size=shape), error
    return found
