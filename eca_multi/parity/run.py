"""The parity run: the same weights, inputs and cotangents to every runner, and a verdict on each tensor."""

import os
from collections.abc import Sequence
from pathlib import Path

from eca_multi._files.scratch import scratch_folder

from .define.checks import CHECKS, DEFAULT_CHECKS, check_names
from .define.dtypes import DTYPES
from .define.runners import UsageError, find_runners, mutated_runner, reference_of, refuse_in_worker
from .define.spec import Spec
from .execute.cotangents import with_cotangents
from .execute.exchange import Batch, Exchange
from .execute.messages import Greeting, Measured, Raised
from .execute.pool import Lost, Pool, processors
from .execute.session import Progress, Session
from .execute.state import RunnerState, state_of
from .execute.tasks import Task, tasks
from .explain.investigate import explain_failures, with_causes
from .judge.judging import assign_blame, judge_cases, judge_session, judge_sight
from .report.assemble import assemble
from .report.report import Report
from .specs import find_spec


def run(
    spec: "Spec | str" = "eca",
    *,
    runners: Sequence[str] | str | None = None,
    dtypes: Sequence[str] | str | None = None,
    cases: Sequence[str] | str | None = None,
    checks: Sequence[str] | str | None = None,
    optimizer: str = "textbook",
    require: Sequence[str] | str = (),
    strict: bool = False,
    timeout: float = 180.0,
    workers: int | None = None,
    progress: Progress | None = None,
    bundles: str | os.PathLike[str] | None = None,
) -> Report:
    """Compare implementations of a layer with the float64 reference.

    Every runner gets a process of its own, the same quantised weights, inputs and cotangents, and is judged by the same
    elementwise error budget (docs/parity.md). Workers import the file of their adapter: in a script, put the call under
    `if __name__ == "__main__":`. Where names are listed, a str is one name.

    Args:
        spec: A `Spec`, the name of one that comes with the package, or "file.py" or "file.py:NAME".
        runners: Names of the specification's runners, or "file.py:Class" for an `Adapter` of your own. None takes all.
        dtypes: Out of "float32", "bfloat16", "float16". None takes all.
        cases: Names of the specification's cases. None takes all.
        checks: Names out of `CHECKS`, or "all". None takes forward, input_grad, weight_grad and compiled.
        optimizer: What updates the weights in the check trajectory: "textbook", the harness's own rule for all, so that
            gradients are compared; or "native", each framework's own optimizer of that kind.
        require: Runners whose absence is a failure. Others that are not installed are only reported.
        strict: Whether the rounding of a framework (verdict ROUNDING) counts as a disagreement too.
        timeout: Seconds that a worker may say nothing.
        workers: Processes at a time. None takes the number of processors.
        progress: Called as progress(what, done, total) as results come in.
        bundles: Folder for what `replay` needs of each failure. None writes none.

    Raises:
        SpecError: If the specification cannot be right, or a name is unknown (UsageError). It is a ValueError.

    Example:
        >>> from eca_multi import parity
        >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
        >>> report.raise_for_status()
    """
    refuse_in_worker("run")
    spec, source = find_spec(spec)
    chosen = find_runners(spec, runners)
    wanted = CHECKS if checks == "all" else DEFAULT_CHECKS if checks is None else checks
    asked = tuple(check_names("check", wanted, CHECKS))
    check_names("optimizer", optimizer, ("textbook", "native"))
    if optimizer == "native" and "trajectory" not in asked:
        raise UsageError("optimizer='native' is for the check trajectory. Ask for it, or leave the optimizer out.")
    kinds = check_names("dtype", spec.dtypes if dtypes is None else dtypes, list(DTYPES))
    names = check_names("case", cases, [case.name for case in spec.cases])
    require = [require] if isinstance(require, str) else require
    check_names("required runner", require, [runner.name for runner in chosen])
    limit = processors() if workers is None else workers
    for name, number in (("workers", limit), ("timeout", timeout)):
        if not number > 0:
            raise UsageError(f"{name} must be positive. Received: {name}={number}.")
    all_tasks = tasks(spec, [spec.case(name) for name in names], kinds, asked, native=optimizer == "native")
    by_name = checks is not None  # a check that takes a runner minutes is left out unless it is named
    return run_tasks(
        spec,
        source,
        all_tasks,
        [(runner, [task for task in all_tasks if by_name or task.check not in runner.slow]) for runner in chosen],
        asked,
        require=require,
        strict=strict,
        timeout=timeout,
        workers=limit,
        progress=progress,
        bundles=bundles,
        with_fingerprints=by_name and set(asked) == set(CHECKS),
        with_sight=True,
    )


def run_tasks(
    spec: Spec,
    source: str,
    all_tasks: Sequence[Task],
    batches: Sequence[Batch],
    checks: tuple[str, ...],
    *,
    require: Sequence[str] = (),
    strict: bool = False,
    timeout: float,
    workers: int | None = None,
    progress: Progress | None = None,
    bundles: str | os.PathLike[str] | None = None,
    with_fingerprints: bool = False,
    with_sight: bool = False,
) -> Report:
    """Take tasks through the stages: execute and judge them, explain what fails, and report.

    Args:
        spec, source: The specification, and where it comes from.
        all_tasks: All tasks, which the reference solves.
        batches: The runners, each with those of the tasks that it gets.
        checks: Names of the checks that the tasks are for.
        require, strict, timeout, workers, progress, bundles: As for `run`.
        with_fingerprints: Whether every runner is fingerprinted, and not only those that fail.
        with_sight: Whether the report says which faults of porting the cases could not see.
    """
    states = {runner.name: state_of(runner) for runner, _ in batches}
    available = [(runner, batch) for runner, batch in batches if states[runner.name].state == "ran"]
    with (
        scratch_folder("eca-parity") as folder,
        Pool(folder, workers=workers or processors(), timeout=timeout) as pool,  # ended before their folder goes
    ):
        exchange, reference = Exchange(pool, folder), reference_of(spec)
        if available:
            full = with_cotangents(exchange, reference, all_tasks, spec.training.loss if spec.training else None)
            by_id = {id(task): whole for task, whole in zip(all_tasks, full, strict=True)}
            all_tasks, available = full, [(runner, [by_id[id(task)] for task in batch]) for runner, batch in available]
        session = Session(exchange, reference, available, progress)
        judged = judge_session(session, all_tasks if available or "power" in checks else [], checks, spec.budget)
        assign_blame(session, judged, all_tasks, strict=spec.strict)
        if with_fingerprints:
            for runner, _ in available:
                session.fingerprint(runner)
        if "power" in checks:
            judge_cases(session, judged, all_tasks, mutated_runner(spec))
        if with_sight:
            judge_sight(session, judged, all_tasks)
        place = None if bundles is None else Path(bundles)
        localisations = explain_failures(session, spec, all_tasks, judged.judge, judged.cells, place)
        judged.cells = with_causes(judged.cells, localisations)
    states |= session.states
    return assemble(spec, source, all_tasks, require, states, session, judged, localisations, strict=strict)


def fingerprints(
    spec: "Spec | str" = "eca", *, runners: Sequence[str] | str | None = None, timeout: float = 180.0
) -> list[RunnerState]:
    """Measure how each runner computes here; see `eca_multi.parity.explain.fingerprints`."""
    refuse_in_worker("fingerprints")
    spec, _ = find_spec(spec)
    chosen = find_runners(spec, runners)
    states = {runner.name: state_of(runner) for runner in chosen}
    with scratch_folder("eca-parity") as folder, Pool(folder, workers=processors(), timeout=timeout) as pool:
        available = [runner for runner in chosen if states[runner.name].state == "ran"]
        for runner, reply in Exchange(pool, folder).measure(available):
            state = states[runner.name]
            match reply:
                case Greeting():
                    state.versions = dict(reply.versions)
                case Measured():
                    state.fingerprint = dict(reply.fingerprint)
                case Raised():
                    state.detail = reply.text
                case Lost():
                    state.state, state.detail = reply.kind, reply.detail
    return list(states.values())
