"""The session of a run, on replies made by hand: which answer meets which solution, and what an end costs."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from eca_multi.parity import Case, NumpyAdapter, Spec, SpecError
from eca_multi.parity.define.runners import Runner, reference_of
from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
from eca_multi.parity.execute import session as session_module
from eca_multi.parity.execute.messages import Computed, Do, Greeting, Malformed, Raised, Refused
from eca_multi.parity.execute.pool import Lost
from eca_multi.parity.execute.results import Delivery
from eca_multi.parity.execute.session import Results, Session, Unsolved
from eca_multi.parity.execute.tasks import tasks

Y = Quantity(Kind.OUTPUT, "y")
SPEC = Spec("Scale", "N C", {"s": "C"}, {"numpy": NumpyAdapter}, NumpyAdapter, cases=(Case("first"), Case("second")))
RUNNER, REFERENCE = Runner("numpy", "module:Scale"), reference_of(SPEC)
HELLO = (REFERENCE, None, Greeting({}, "analytic"))


@dataclass(frozen=True)
class Made(Delivery):
    """A delivery with one number in the place of a file."""

    number: float = 0.0

    def outputs(self):
        if np.isnan(self.number):
            raise Malformed("y must hold real numbers")
        return {Y: Tensor(np.float32([self.number]), "float32")}

    def solution(self):
        return {Y: (np.float64([self.number]), np.zeros(1))}


def made(number, note=""):
    return Made(Computed(0, {}, note=note), None, number)


@dataclass
class Scripted:
    """An exchange that answers as it is told: batch by batch, (runner, number of the task or None, reply)."""

    scripts: list
    condemned: list = field(default_factory=list)
    greetings: dict = field(default_factory=dict)  # of workers that an earlier session has started

    def stream(self, batches):
        known = {(runner.name, number): task for runner, batch in batches for number, task in enumerate(batch)}
        for runner, number, reply in self.scripts.pop(0):
            yield runner, known.get((runner.name, number)), reply

    def condemn(self, runner, reason):
        self.condemned.append((runner.name, reason))
        return Lost("crashed", reason)


def run(*scripts, checks=("forward",)):
    work = tasks(SPEC, SPEC.cases, ["float32"], checks)
    exchange = Scripted([*map(list, scripts), []])
    session = Session(exchange, REFERENCE, [(RUNNER, work)])
    return session, [(task.case, outcome) for _, task, outcome in session.run(work)]


def test_an_answer_waits_for_its_own_solution():
    script = [
        HELLO,
        (RUNNER, 0, made(1.0, "first")),
        (RUNNER, 1, made(2.0, "second")),
        (REFERENCE, 1, made(20.0)),
        (REFERENCE, 0, made(10.0)),
    ]
    session, finished = run(script)
    assert [case for case, _ in finished] == ["second", "first"]  # as the solutions came
    values = [(result.outputs[Y].values[0], result.solution[Y][0][0], result.note) for _, result in finished]
    assert values == [(2.0, 20.0, "second"), (1.0, 10.0, "first")]
    assert (session.budget, session.lost, session.open["numpy"]) == ("analytic", None, [])


def shares(monkeypatch, large, limit=3):
    """Who solves which case of a run whose weights, of 12 elements, are large from `large` on."""
    asked = []
    monkeypatch.setattr(session_module, "LARGE", large)
    monkeypatch.setattr(Scripted, "limit", limit, raising=False)
    monkeypatch.setattr(Scripted, "stream", lambda _, batches: asked.append(batches) or [])
    run()
    return [(runner.name, [task.case for task in batch]) for runner, batch in asked[0] if runner.role == "reference"]


def test_processes_share_the_questions_about_a_large_layer(monkeypatch):
    assert shares(monkeypatch, 12) == [("reference", ["first"]), ("reference 2", ["second"])]
    assert shares(monkeypatch, 13) == [("reference", ["first", "second"])]
    assert shares(monkeypatch, 12, limit=1) == [("reference", ["first", "second"])]


def test_each_process_of_the_reference_answers_and_its_end_is_the_references(monkeypatch):
    monkeypatch.setattr(session_module, "LARGE", 1)
    monkeypatch.setattr(Scripted, "limit", 2, raising=False)
    twin = replace(REFERENCE, name="reference 2")
    script = [HELLO, (RUNNER, 0, made(1.0)), (RUNNER, 1, made(2.0)), (twin, 0, made(20.0))]
    session, finished = run([*script, (REFERENCE, 0, made(10.0))])
    assert [(case, outcome.solution[Y][0][0]) for case, outcome in finished] == [("second", 20.0), ("first", 10.0)]
    session, finished = run([*script[:3], (REFERENCE, 0, made(10.0)), (twin, None, Lost("crashed", "gone"))])
    assert [(case, type(outcome)) for case, outcome in finished] == [("first", Results), ("second", Unsolved)]
    assert (session.lost.name, session.lost.state) == ("reference", "crashed")


def test_without_its_solution_an_answer_stays_open():
    script = [HELLO, (RUNNER, 0, made(1.0)), (RUNNER, 1, made(2.0)), (REFERENCE, 0, made(10.0))]
    session, finished = run([*script, (REFERENCE, None, Lost("timed out", "said nothing for 3 s\nlast words"))])
    assert [(case, type(outcome)) for case, outcome in finished] == [("first", Results), ("second", Unsolved)]
    assert finished[1][1].reason == "there is nothing to judge it by: the reference timed out: last words"
    assert (session.lost.name, session.lost.state) == ("reference", "timed out")


def test_the_tasks_of_a_process_that_ended_are_open_and_its_first_end_stays():
    first = [HELLO, (RUNNER, 0, made(1.0)), (REFERENCE, 0, made(1.0)), (REFERENCE, 1, made(2.0))]
    first += [(RUNNER, None, Lost("timed out", "said nothing for 3 s"))]
    session, finished = run(first, [(RUNNER, None, Lost("crashed", "ended earlier in this run"))])
    assert [case for case, _ in finished] == ["first"]
    assert [task.case for task in session.open["numpy"]] == ["second"]
    assert (session.states["numpy"].state, session.states["numpy"].detail) == ("timed out", "said nothing for 3 s")


def test_a_file_that_holds_no_answer_ends_its_worker():
    script = [HELLO, (REFERENCE, 0, made(1.0)), (RUNNER, 0, made(np.nan))]
    session, finished = run(script)
    assert finished == []
    assert session.states["numpy"].state == "crashed"
    assert session.states["numpy"].detail == "wrote what is no answer: y must hold real numbers"
    assert [task.case for task in session.open["numpy"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Raised(0, "Traceback\nZeroDivisionError: by zero"), "the reference failed on case first: ZeroDivisionError"),
        (Refused(0, "no float16"), "the reference failed on case first: no float16"),
        (made(np.inf), "the reference must be finite for finite inputs. Received: y of case first"),
    ],
    ids=["raised", "refused", "infinite"],
)
def test_a_reference_that_cannot_be_right_ends_the_run(reply, message):
    with pytest.raises(SpecError, match=message):
        run([HELLO, (REFERENCE, 0, reply)])


def test_training_starts_from_the_references_weights():
    work = tasks(SPEC, SPEC.cases[:1], ["float32"], ["trajectory"])
    asked = []

    class Recording(Scripted):
        def stream(self, batches):
            asked.append([(runner.name, task.do, task.job.given) for runner, batch in batches for task in batch])
            yield from ()

    session = Session(Recording([]), REFERENCE, [(RUNNER, work)])
    start = Quantity(Kind.START, "s")
    session.solutions[work[0].oracle] = {start: (np.float64([0.1]), np.zeros(1)), Y: (np.zeros(1), np.zeros(1))}
    assert list(session.run(work)) == []
    [(who, do, given)], [(runner, train, starts)] = asked
    assert (who, do, given, runner, train) == ("reference", Do.SOLVE_TRAINING, {}, "numpy", Do.TRAIN)
    assert {quantity: array.tolist() for quantity, array in starts.items()} == {start: [np.float32(0.1)]}
