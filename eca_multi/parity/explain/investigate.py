"""The explanation of a runner's failures: run it again with taps, find the stage, shrink the case, write the bundle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eca_multi._printable import file_name
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.loading import VALUE, label_of
from eca_multi.parity.define.runners import HYPOTHESES, Runner, mutated_runner
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.define.tensor import Quantity, Solution, parse
from eca_multi.parity.execute.exchange import Failure
from eca_multi.parity.execute.messages import Do, Explained, bounded
from eca_multi.parity.execute.session import Session
from eca_multi.parity.execute.tasks import Key, Task
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Verdict, judge
from eca_multi.parity.judge.layouts import align
from eca_multi.parity.judge.verdicts import Judge

from .bundle import replay_command, write_bundle
from .fingerprints import explain
from .hypotheses.cause import Cause, say_causes
from .localize import FAILS, Localisation, Stage, chain, culprit, is_failing, say
from .rerun import Bench, Rerun
from .shrink import axes_of, shrink
from .trust import needs_trust

UNSTEADY = "its result changes from run to run: dropout is left on, or another operation draws random numbers"
Operations = Mapping[Quantity, Sequence[str]]  # of the reference's stages, in the order of the computation
Failing = Mapping[str, tuple[Cell, Task]]


def explain_failures(
    session: Session, spec: Spec, tasks: Sequence[Task], judge: Judge, cells: Sequence[Cell], bundles: Path | None
) -> list[Localisation]:
    """Localise the first failure of each runner and dtype, while the workers are still there.

    `bundles` is the folder for what `replay` needs of each failure; None writes none.
    """
    localisations: list[Localisation] = []
    for runner in session.runners:
        failures = _first_failures([cell for cell in cells if cell.runner == runner.name], tasks)
        if failures:
            bench = Bench(session.exchange, runner, session.reference, _stand_in(spec, session))
            facts = session.fingerprint(runner)
            localisations += _Investigation(spec, bench, judge, session.solutions, facts, bundles).localise(failures)
    return localisations


def with_causes(cells: Sequence[Cell], localisations: Sequence[Localisation]) -> list[Cell]:
    """Give the failing cells of each localised case their cause."""
    causes = {(found.runner, found.case, found.dtype): found.cause for found in localisations if found.cause}
    return [
        replace(cell, cause=causes.get((cell.runner, cell.case, cell.dtype), "")) if cell.verdict in FAILS else cell
        for cell in cells
    ]


def _stand_in(spec: Spec, session: Session) -> Runner | None:
    """Return the specification's PyTorch layer as a reference for hypotheses, where it can run.

    A worker of the run that has the layer answers; else one starts, and imports PyTorch.
    """
    torch = mutated_runner(spec)
    if torch is None or torch.unavailable():
        return None
    if any(runner == torch and session.states[runner.name].state == "ran" for runner in session.runners):
        return torch
    return replace(torch, name=HYPOTHESES, role="reference")


def _first_failures(cells: Sequence[Cell], tasks: Sequence[Task]) -> Failing:
    """Return by dtype the first failing cell of a runner, with the task to run again.

    The task is the evaluation of the cell's check, or the plain evaluation of its case where the check has none.
    """
    evaluations = {task.key: task for task in tasks if task.do is Do.EVALUATE}
    failures: dict[str, tuple[Cell, Task]] = {}
    for cell in cells:
        exact, plain = (evaluations.get((cell.case, cell.dtype, check)) for check in (cell.check, ""))
        if cell.verdict in FAILS and (task := exact or plain):
            failures.setdefault(cell.dtype, (cell, task))
    return failures


@dataclass(frozen=True)
class _Investigation:
    """The means to explain the failures of one runner, and what is known of it."""

    spec: Spec
    bench: Bench
    judge: Judge
    solutions: Mapping[Key, Solution]
    fingerprint: Mapping[str, object]
    bundles: Path | None

    def localise(self, failures: Failing) -> Iterator[Localisation]:
        """Explain the first failure in each dtype; the first dtype's case is shrunk."""
        for dtype, (cell, task) in sorted(failures.items()):
            try:
                yield self._localise(cell, task, shrinks=dtype == min(failures))
            except Exception as error:  # a full disk, or tensors that make no sense: the verdict must stand
                yield self._result(cell, f"first divergence: not found: {bounded(error)}")

    def _localise(self, cell: Cell, task: Task, *, shrinks: bool) -> Localisation:
        job = replace(task.job, taps=tuple(self.spec.taps), compiled=False, twice=False, gradients=True)
        [rerun] = self.bench.run([job])
        if isinstance(rerun, Failure):
            line = f"first divergence: not found, since it cannot be run again: {rerun.reason}"
            known = self.solutions.get(task.oracle, {}) if task.oracle else {}
            return self._result(cell, line, evidence=Rerun(replace(task.job, twice=False), {}, known))
        aligned = align(job, rerun.results, rerun.solution, self.judge.c)
        rerun = replace(rerun, results=aligned.results)
        explained = self.bench.explain(rerun)
        operations = _operations(explained)
        stages = chain(job, rerun.results, rerun.solution, self.bench.isolate(rerun), self.judge, operations)
        first = culprit(stages)
        if first is None and task.job.compiled and not is_failing(stages):
            line = "first divergence: none when run eagerly: compiling changes the result"
            # Not shrunk: each size would be compiled, which takes minutes.
            return self._result(cell, line, stages, evidence=self._again(replace(task.job, twice=False), rerun))
        why = self._explanation(first, cell.dtype, operations)
        cause = _cause(explained) or self._unsteady(rerun)
        smaller = shrink(self.bench, self.judge, job, cell.tensor) if shrinks else job
        evidence = rerun if smaller is job else self._again(smaller, rerun)
        sizes = {axis: int(evidence.job.config[axis]) for axis in axes_of(job)} if evidence is not rerun else {}
        line = say(stages, why, aligned.unclear, cause)
        found = self._result(cell, line, stages, evidence)
        return replace(found, explanation=why, shrunk=sizes, cause=cause)

    def _unsteady(self, rerun: Rerun) -> str:
        """Say so where another run gives other results by more than their budget."""
        again = self.bench.again(rerun)
        for quantity, (_, error) in rerun.solution.items():
            if quantity in again and quantity in rerun.results:
                first = rerun.results[quantity].values.astype(np.float64)
                limit = self.judge.budget(first, error)
                if judge(again[quantity], first, limit, None, self.judge.c).verdict in FAILS:
                    return UNSTEADY
        return ""

    def _explanation(self, first: Stage | None, dtype: str, operations: Operations) -> str:
        """Return the fact of the runner's fingerprint that explains a culprit; "" where there is none."""
        if first is None:
            return ""
        nonfinite = first.isolated.verdict is Verdict.NONFINITE_MISMATCH
        known = operations.get(first.quantity, ())
        return explain(first.quantity, dtype, self.fingerprint, known, nonfinite=nonfinite) or ""

    def _again(self, job: Job, otherwise: Rerun) -> Rerun:
        [rerun] = self.bench.run([job])
        return otherwise if isinstance(rerun, Failure) else rerun

    def _result(
        self, cell: Cell, line: str, stages: Sequence[Stage] = (), evidence: Rerun | None = None
    ) -> Localisation:
        folder, note = self._bundle(cell, line, evidence) if evidence is not None else ("", "")
        first = culprit(stages)
        return Localisation(
            cell.runner,
            cell.case,
            cell.dtype,
            f"{cell.runner} {cell.dtype} {cell.case}: {line}{note}",
            culprit=first.quantity.label if first else None,
            chain=tuple(stage.plain() for stage in stages),
            bundle=folder,
            replay=replay_command(folder, trust=needs_trust(self.bench.runner, self.bench.reference)) if folder else "",
        )

    def _bundle(self, cell: Cell, line: str, evidence: Rerun) -> tuple[str, str]:
        """Write the bundle that `replay` needs; return its folder, or else a note. The verdict stands either way."""
        if self.bundles is None:
            return "", ""
        for source in (self.bench.runner.adapter, self.bench.reference.adapter):
            if source.startswith(VALUE):
                return "", f"; no bundle was written, since no file has {label_of(source)} at its top level to name"
        folder = self.bundles / "--".join(map(file_name, (cell.runner, cell.case, cell.dtype)))
        head = f"{cell.runner} {cell.dtype} {cell.case} {cell.tensor}: {line}"
        try:
            write_bundle(folder, self.spec, self.bench.runner, self.bench.reference, self.judge, head, evidence)
        except OSError as error:
            return "", f"; no bundle was written: {error}"
        return str(folder), ""


def _operations(explained: Explained | None) -> Operations:
    """Return the operations of the reference's stages; a key that is none of a quantity is left out."""
    found: dict[Quantity, list[str]] = {}
    for key, names in explained.stages.items() if explained else ():
        try:
            found[parse(key)] = names.split()
        except ValueError:  # a worker may write anything
            continue
    return found


def _cause(explained: Explained | None) -> str:
    """Return the causes in one line for people."""
    return say_causes([Cause(says, share) for says, share in explained.causes.items()]) if explained else ""
