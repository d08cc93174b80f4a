"""What follows a failure, while the workers are still there: fingerprint, localisation, shrinking, bundle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eca_multi._printable import file_name
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.runners import Runner, runners_of
from eca_multi.parity.define.tensor import Outputs, Quantity, Solution
from eca_multi.parity.execute.messages import Computed, Do, Measured, Request, bounded
from eca_multi.parity.execute.tasks import Task
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement, Verdict
from eca_multi.parity.judge.power import Power

from . import localize
from .bundle import replay_command, write_bundle
from .fingerprints import explain
from .localisation import Localisation

if TYPE_CHECKING:
    from eca_multi.parity.run import Session

Answer = tuple[Outputs, Solution]


def investigate(session: "Session", bundles: Path | None) -> None:
    """Localise the first failure of each runner and dtype."""
    for runner in session.runners:
        failures = [c for c in session.report.cells if c.runner == runner.name and c.verdict in localize.FAILS]
        first = {cell.dtype: (cell, task) for cell in reversed(failures) if (task := _task(session, cell)) is not None}
        if first and not session.states[runner.name].fingerprint:
            take_fingerprint(session, runner)
        for dtype in sorted(first):
            cell, task = first[dtype]
            try:
                found = _localise(session, runner, cell, task, shrink=dtype == min(first), bundles=bundles)
            except (
                Exception
            ) as error:  # a full disk, or what a worker made up: it explains, and must not hide the verdict
                line = f"{runner.name} {dtype} {cell.case}: first divergence: not found: {bounded(error)}"
                found = Localisation(runner.name, cell.case, dtype, line)
            session.report.localisations.append(found)
    session.report.replay = next((found.replay for found in session.report.localisations if found.replay), "")


def measure_power(session: "Session") -> None:
    """Run mutants of the PyTorch layer through the same verdict; a case that kills none says nothing."""
    from eca_multi.parity.judge.power import judge_power

    torch = next((r for r in runners_of(session.spec) if "torch" in r.requires and r.name.startswith("torch")), None)
    reason = "no torch adapter to mutate" if torch is None else torch.unavailable()
    tasks = [task for task in session.plan if task.do is Do.EVALUATE and not task.check]
    # An empty batch is there to see that nothing breaks; no fault shows in it.
    tasks = [task for task in tasks if all(array.size for array in task.job.inputs.values())]
    if torch is None or reason:
        session.report.cells += [
            Cell("torch", t.case, t.job.dtype, "power", "", Judgement(Verdict.UNSUPPORTED), reason=reason or "")
            for t in tasks
        ]
        return
    judge = replace(session.judge, checks=BASE)
    breeder = replace(torch, name="mutants")
    for task in tasks:
        solution = session.solutions.get(task.oracle or ("", "", ""))
        [(answer, results)] = session.ask(breeder, [session.loose(replace(task.job, twice=False), Do.POWER)])
        if solution is None or results is None or not isinstance(answer, Computed):
            text = (
                f"the reference {session.lost}" if solution is None else session.faults.get(breeder.name, "no answer")
            )
            session.report.cells.append(
                Cell("torch", task.case, task.job.dtype, "power", "", Judgement(Verdict.ERROR), reason=text)
            )
            continue
        by_mutant = {bounded(mutant): outputs for mutant, outputs in results.items()}
        power = judge_power(judge, task, {**dict.fromkeys(answer.not_applicable), **by_mutant}, solution)
        session.report.power.append(power)
        if not power.killed:
            session.report.cells = [_inconclusive(cell, power) for cell in session.report.cells]


def _inconclusive(cell: Cell, power: Power) -> Cell:
    if (cell.case, cell.dtype) != (power.case, power.dtype) or not cell.green:
        return cell
    reason = "this case kills no mutant: a wrong layer would pass it too"
    return replace(cell, judgement=replace(cell.judgement, verdict=Verdict.INCONCLUSIVE), reason=reason)


def take_fingerprint(session: "Session", runner: Runner) -> None:
    """Measure how a runner computes, once."""
    for answer, _ in session.ask(runner, [Request(0, Do.FINGERPRINT)]):
        if isinstance(answer, Measured):
            session.states[runner.name].fingerprint = dict(answer.fingerprint)


def _task(session: "Session", cell: Cell) -> Task | None:
    """The task that a failing cell came from, if its job can be run again with taps."""
    check = cell.check if cell.check in ("compiled", "mixed", "nonfinite") else ""
    return next(
        (t for t in session.plan if t.key == (cell.case, cell.dtype, check) and t.do is Do.EVALUATE),
        None,
    )


def _localise(
    session: "Session", runner: Runner, cell: Cell, task: Task, *, shrink: bool, bundles: Path | None
) -> Localisation:
    job = replace(task.job, taps=tuple(session.spec.taps), compiled=False, twice=False, gradients=True)
    answer = _both(session, runner, [job])[0]
    stages: list[localize.Stage] = []
    first = None
    if answer is None:
        line = f"first divergence: not found, since it cannot be run again: {_fault(session, runner)}"
        smallest, answer = replace(task.job, twice=False), ({}, session.solutions[task.oracle or ("", "", "")])
    else:
        results, solution = answer
        isolated = session.solve([localize.given(job, results)])[0]
        stages = localize.chain(job, results, solution, isolated or solution, session.judge)
        first = localize.culprit(stages)
        if first is None and task.job.compiled and not any(s.propagated.verdict in localize.FAILS for s in stages):
            line = "first divergence: none when run eagerly: compiling changes the result"
            # As it is: each size to try would be compiled anew, which takes minutes.
            smallest, answer = _again(session, runner, replace(task.job, twice=False)) or (job, answer)
        else:
            why = explain(first.quantity.label, cell.dtype, session.states[runner.name].fingerprint) if first else None
            line = localize.say(stages, why or "")
            smaller = _shrink(session, runner, job, cell.tensor) if shrink else job
            smallest, answer = (smaller is not job and _again(session, runner, smaller)) or (job, answer)
    cut = smallest.config != job.config
    sizes = {axis: int(smallest.config[axis]) for axis in localize.axes_of(job)} if cut else {}
    folder, note = _bundle(session, runner, cell, line, bundles, smallest, answer)
    return Localisation(
        runner.name,
        cell.case,
        cell.dtype,
        f"{runner.name} {cell.dtype} {cell.case}: {line}{note}",
        first.quantity.label if first else None,
        line.partition(" -> ")[2],
        tuple(stage.plain() for stage in stages),
        sizes,
        folder,
        replay_command(folder) if folder else "",
    )


def _bundle(
    session: "Session", runner: Runner, cell: Cell, line: str, bundles: Path | None, job: Job, answer: Answer
) -> tuple[str, str]:
    """Write what `replay` needs; return its folder, or else a note. The verdict stands either way."""
    if bundles is None:
        return "", ""
    folder = bundles / "--".join(map(file_name, (runner.name, cell.case, cell.dtype)))
    head = f"{runner.name} {cell.dtype} {cell.case} {cell.tensor}: {line}"
    try:
        write_bundle(folder, session.spec, runner, session.reference, session.judge, head, job, *answer)
    except OSError as error:
        return "", f"; no bundle was written: {error}"
    return str(folder), ""


def _fault(session: "Session", runner: Runner) -> str:
    """Why a job has no answer: the runner says it, or else the reference."""
    own, of_reference = (session.faults.get(name, "") for name in (runner.name, session.reference.name))
    return own or f"the reference: {of_reference or 'no answer'}"


def _again(session: "Session", runner: Runner, job: Job) -> tuple[Job, Answer] | None:
    answer = _both(session, runner, [job])[0]
    return None if answer is None else (job, answer)


def _both(session: "Session", runner: Runner, jobs: Sequence[Job]) -> list[Answer | None]:
    """Run jobs in the runner and in the reference; None where either cannot."""
    session.faults.clear()
    results = session.evaluate(runner, jobs)
    solutions = session.solve([replace(job, compiled=False) for job in jobs])
    return [(r, s) if r is not None and s is not None else None for r, s in zip(results, solutions, strict=True)]


def _shrink(session: "Session", runner: Runner, job: Job, tensor: str) -> Job:
    """Cut axis after axis to the smallest size at which a tensor still fails."""
    plain = replace(job, taps=())
    for axis in localize.axes_of(plain):
        tries = [localize.smaller(plain, axis, size) for size in localize.candidates(plain, axis)]
        for tried, answer in zip(tries, _both(session, runner, tries) if tries else [], strict=True):
            if answer is not None and _fails(session, tried, answer, tensor):
                plain = tried
                break
    return replace(plain, taps=job.taps) if plain.config != job.config else job


def _fails(session: "Session", job: Job, answer: Answer, tensor: str) -> bool:
    labels = {quantity.label: quantity for quantity in answer[1]}
    quantity: Quantity | None = labels.get(tensor, labels.get(next(iter(job.outputs))))
    if quantity is None or quantity not in answer[0]:
        return False
    return localize.judge_one(quantity, answer[0], answer[1], session.judge).verdict in localize.FAILS
