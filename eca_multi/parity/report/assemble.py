"""The report of a run, put together from what the stages gave."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eca_multi.parity.define.loading import label_of
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.execute.pool import processors
from eca_multi.parity.execute.session import Session
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.execute.tasks import Task
from eca_multi.parity.explain.localize import Localisation
from eca_multi.parity.judge.judging import Judged

from .report import Report


def assemble(
    spec: Spec,
    source: str,
    tasks: Sequence[Task],
    required: Sequence[str],
    states: Mapping[str, RunnerState],
    session: Session,
    judged: Judged,
    localisations: Sequence[Localisation],
    *,
    strict: bool = False,
) -> Report:
    """Return the report. The reference is among the runners where its process has ended."""
    about: dict[str, Any] = {"name": spec.name, "source": source, "hash": spec.digest(), "layout": spec.layout}
    if session.budget:
        adapter = label_of(session.reference.adapter)
        about |= {"reference": adapter, "budget": judged.judge.kind, "c": judged.judge.c}
    names = {task.case for task in tasks}
    report = Report(
        [*states.values(), *([session.lost] if session.lost else [])],
        judged.cells,
        required=tuple(required),
        environment=environment(),
        spec=about,
        cases=tuple({"name": case.name, "why": case.why} for case in spec.cases if case.name in names),
        localisations=list(localisations),
        trajectories=judged.trajectories,
        power=judged.power,
        sight=judged.sight,
        strict=strict,
        replay=next((item.replay for item in localisations if item.replay), ""),
    )
    report.finish()
    return report


def environment() -> dict[str, str]:
    """Return what the results may depend on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{platform.machine()}, {processors()} cores",
        "numpy": np.__version__,
    }
