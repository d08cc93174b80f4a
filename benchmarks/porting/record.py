"""One run of the bench, and what its verdict said, beside common tolerances on the same tensors."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from benchmarks._policies import Accepts, Compared, assert_close, close, cosine
from benchmarks.porting.causes import IN_SIGHT, names
from benchmarks.porting.layer import Fault, Layer, kind_of
from eca_multi import parity
from eca_multi.parity import Report, Verdict
from eca_multi.parity.define.dtypes import quantise
from eca_multi.parity.define.tensor import Kind
from eca_multi.parity.execute.session import Results
from eca_multi.parity.judge.verdicts import Judge

CHECKS = ("forward", "input_grad", "weight_grad")
POLICIES: Mapping[str, Accepts] = {
    "`torch.testing.assert_close`": assert_close,
    "Keras's `run_layer_test`, 1e-6": close(1e-6, 1e-6),
    "cosine 0.99": cosine,
}
_COMPARED = (Kind.OUTPUT, Kind.STATE, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)


@dataclass
class Record:
    """What the verdict said about one port in one dtype; `fault` is "" for a right port."""

    layer: str
    fault: str
    runner: str
    dtype: str
    seconds: float
    cells: int = 0
    red: list[str] = field(default_factory=list)  # "case tensor verdict", without ROUNDING
    rounding: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)  # INCONCLUSIVE
    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # UNSUPPORTED: what the framework does not do on this machine
    blind: str = ""  # what the run says that this dtype cannot see
    stage: str = ""  # the planted one
    culprit: str = ""  # the one that the run names
    cause: str = ""  # the planted one
    said: str = ""  # the causes that the run names
    rejected: list[str] = field(default_factory=list)  # the policies that reject the port

    @property
    def caught(self) -> bool:
        return bool(self.red)

    @property
    def declared(self) -> bool:
        """Whether the run says, without a red cell, that it cannot decide."""
        return not self.caught and bool(self.open or self.blind)

    @property
    def localised(self) -> bool:
        return self.caught and self.culprit == self.stage

    @property
    def named(self) -> bool:
        return self.caught and bool(self.said) and names(self.said, self.cause)


def run_right(layer: Layer, runners: Sequence[str], dtypes: Sequence[str]) -> list[Record]:
    """Run a layer's right ports together, as one user has them."""
    mine = [name for name in runners if kind_of(name) in layer.ports]
    report, rejected, seconds = _run(layer.right(mine), dtypes)
    records = []
    for runner in mine:
        for dtype in dtypes:
            record = Record(layer.name, "", runner, dtype, seconds / len(mine) / len(dtypes))
            records.append(_filled(record, report, rejected))
    return records


def run_wrong(layer: Layer, fault: Fault, runner: str, dtypes: Sequence[str]) -> list[Record]:
    """Run a faulty port beside torch's right one."""
    report, rejected, seconds = _run(layer.wrong(fault, runner), dtypes)
    records = []
    for dtype in dtypes:
        record = Record(layer.name, fault.name, runner, dtype, seconds / len(dtypes))
        record.stage, record.cause = fault.stage, fault.cause
        records.append(_filled(record, report, rejected))
    return records


def _run(spec: parity.Spec, dtypes: Sequence[str]) -> tuple[Report, dict[tuple[str, str], set[str]], float]:
    rejected: dict[tuple[str, str], set[str]] = {}
    start = time.process_time()
    with _judged_by_policies(rejected) as spent:
        # Rounding is told apart by float32 (judge/blame.py), without which every red cell is the port's own fault.
        report = parity.run(spec, dtypes=("float32", *(d for d in dtypes if d != "float32")), checks=CHECKS)
    return report, rejected, time.process_time() - start - spent[0]


@contextmanager
def _judged_by_policies(rejected: dict[tuple[str, str], set[str]]) -> Iterator[list[float]]:
    """Judge each answer by every policy as it comes in; yield the seconds that it took."""
    plain, spent = Judge.outcome, [0.0]

    def outcome(judge: Judge, runner: str, task: Any, result: Any, *more: Any, **named: Any) -> Any:
        start = time.process_time()
        if isinstance(result, Results):
            found = rejected.setdefault((runner, task.job.dtype), set())
            for quantity, (reference, error) in result.solution.items():
                if quantity.kind not in _COMPARED or quantity not in result.outputs:
                    continue
                actual = result.outputs[quantity]
                exact = reference.dtype.kind in "biu" or actual.dtype not in ("float32", "bfloat16", "float16")
                expected = reference if exact else quantise(reference, actual.dtype)
                pair = Compared(actual, reference, np.asarray(expected, np.float64), error)
                for policy, accepts in POLICIES.items():
                    if actual.values.shape != reference.shape or not accepts(pair):
                        found.add(policy)
        spent[0] += time.process_time() - start
        return plain(judge, runner, task, result, *more, **named)

    with mock.patch.object(Judge, "outcome", outcome):
        yield spent


def _filled(record: Record, report: Report, rejected: Mapping[tuple[str, str], set[str]]) -> Record:
    """Fill in what a report says about the record's runner and dtype."""
    cells = [cell for cell in report.cells if cell.runner == record.runner and cell.dtype == record.dtype]
    record.cells = len(cells)
    for cell in cells:
        text = f"{cell.case} {cell.tensor} {cell.verdict}"
        if cell.verdict.disagrees:
            record.red.append(text)
        elif str(cell.verdict) == "ROUNDING":
            record.rounding.append(text)
        elif cell.verdict is Verdict.INCONCLUSIVE:
            record.open.append(text)
        elif cell.verdict is Verdict.UNSUPPORTED:
            record.refused.append(f"{text}: {cell.reason}")
        elif cell.verdict is Verdict.ERROR:
            record.errors.append(f"{text}: {cell.reason.strip().splitlines()[-1] if cell.reason.strip() else ''}")
    for state in report.runners:
        if state.name == record.runner and state.state != "ran":
            record.errors.append(f"{state.state}: {state.detail.splitlines()[0] if state.detail else ''}")
    here = [item for item in report.localisations if (item.runner, item.dtype) == (record.runner, record.dtype)]
    record.culprit = next((item.culprit for item in here if item.culprit), "") or ""
    lines = [getattr(cell, "cause", "") for cell in cells] + [getattr(item, "cause", "") for item in here]
    record.said = "; ".join(dict.fromkeys(filter(None, lines)))
    unseen = {name for sight in report.sight if sight.dtype == record.dtype for name in sight.unseen}
    record.blind = IN_SIGHT.get(record.cause, "") if IN_SIGHT.get(record.cause, "") in unseen else ""
    record.rejected = sorted(rejected.get((record.runner, record.dtype), ()))
    return record
