"""Measure the parity harness: how often its verdicts reject what is right, and how often they see what is wrong.

    python benchmarks/parity_verdicts.py [--quick] [--output docs/measured-parity.md]

Runs every runner of ECA through the harness, and judges the same results by several policies; then judges mutants of
the PyTorch layer, which have one fault each. Writes a page, every number of which comes from the run. --quick takes a
part of the cases and runners, and prints the page.
"""

import argparse
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest import mock

import numpy as np

from benchmarks._policies import Accepts, Compared, assert_close, close, cosine
from benchmarks.porting.page import kept
from eca_multi import parity
from eca_multi.parity.budget.safety import SAFETY
from eca_multi.parity.define.checks import BASE
from eca_multi.parity.define.dtypes import DTYPES, quantise
from eca_multi.parity.define.job import identified
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Solution
from eca_multi.parity.execute.session import Outcome, Results
from eca_multi.parity.execute.tasks import Task, tasks
from eca_multi.parity.judge.cell import Cell, describe
from eca_multi.parity.judge.compare import judge
from eca_multi.parity.judge.verdicts import Judge
from eca_multi.parity.specs.eca import SPEC, Torch

PAGE = Path(__file__).parents[1] / "docs" / "measured-parity.md"
QUICK: dict[str, Any] = {"runners": ["torch", "jax"], "cases": ["offsets", "same-sign", "circular", "per-channel"]}


class ChannelsLast(Torch):
    """The PyTorch layer on features whose channels lie last in memory."""

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        x = inputs["x"].movedim(1, -1).contiguous().movedim(-1, 1)
        return super().call(layer, {**inputs, "x": x}, config)


class Stepwise(Torch):
    """ECA as it is usually written in PyTorch: a mean, a convolution and a sigmoid, each rounded to the dtype."""

    def build(self, config: Mapping[str, Any]) -> Any:
        from torch import nn

        layer, k = nn.Module(), config["k"]
        layer.conv = nn.Conv1d(1, 1 if config["shared"] else config["C"], k, bias=False)
        return layer

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        import torch
        from torch.nn import functional as F

        x, mask, w = inputs["x"].movedim(self.axis(config), 1), inputs.get("mask"), layer.conv.weight
        axes, half = tuple(range(2, x.ndim)), config["k"] // 2
        if mask is None:
            pooled = x.mean(axes)
        else:
            pooled = torch.where(mask[:, None], x, 0).sum(axes) / mask[:, None].sum(axes).clamp(min=1)
        mode = "circular" if config["padding"] == "circular" else "constant"
        padded = F.pad(pooled[:, None], (half, half), mode)
        if config["shared"]:
            logits = F.conv1d(padded, w)[:, 0]
        else:
            logits = (padded[:, 0].unfold(1, config["k"], 1) * w[:, 0]).sum(-1)
        gate = F.hardsigmoid(logits) if config["gate"] == "hard_sigmoid" else torch.sigmoid(logits)
        gate = 2 * gate if config["gate"] == "2sigmoid" else gate
        return (x * gate.reshape(*gate.shape, *[1] * len(axes))).movedim(1, self.axis(config))


# --- policies: may this result stand for this reference?


def budget(pair: Compared) -> bool:
    return judge(pair.actual, pair.reference, pair.error, None, SAFETY["analytic"]).verdict.green


OURS = "error budget, c = 2"
POLICIES: dict[str, Accepts] = {
    OURS: budget,
    "`torch.testing.assert_close`": assert_close,
    "Keras's 1e-6, 1e-6": close(1e-6, 1e-6),
    "largest difference 1e-5": close(0.0, 1e-5),
    "1e-3, 1e-3": close(1e-3, 1e-3),
    "cosine 0.99": cosine,
}
OUTPUT, GRADIENTS, TAPS = "y", "y and gradients", "and taps"
_Y = Quantity(Kind.OUTPUT, "y")
_GRADIENTS = tuple(
    Quantity(kind, name, cotangent)
    for kind, name in ((Kind.INPUT_GRADIENT, "x"), (Kind.WEIGHT_GRADIENT, "w"))
    for cotangent in Cotangent
)
_TAPS = tuple(Quantity(kind, tap) for kind in (Kind.TAP, Kind.TAP_GRADIENT) for tap in SPEC.taps)
LEVELS = {OUTPUT: (_Y,), GRADIENTS: (_Y, *_GRADIENTS), TAPS: (_Y, *_GRADIENTS, *_TAPS)}


def rejected(results: Outputs, solution: Solution, quantities: Iterable[Quantity]) -> dict[str, set[Quantity]]:
    """Policy -> the tensors that it rejects."""
    found: dict[str, set[Quantity]] = {policy: set() for policy in POLICIES}
    for quantity in quantities:
        actual, (reference, error) = results[quantity], solution[quantity]
        pair = Compared(actual, reference, quantise(reference, actual.dtype), error)
        for policy, accepts in POLICIES.items():
            if actual.values.shape != reference.shape or not accepts(pair):
                found[policy].add(quantity)
    return found


# --- correct runs


@dataclass
class Correct:
    """What the policies said about runs of correct implementations."""

    runs: Counter[str] = field(default_factory=Counter)  # by dtype
    rejections: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by policy, dtype and level
    places: set[tuple[str, str, str, str]] = field(default_factory=set)  # policy, dtype, level and case of rejections
    variants: dict[str, None] = field(default_factory=dict)
    ours: list[str] = field(default_factory=list)  # rejections by the budget
    use: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DTYPES, 0.0))  # the largest of the budget

    def add(self, variant: str, task: Task, results: Outputs, solution: Solution) -> None:
        dtype, case = task.job.dtype, task.job.case
        self.variants[variant] = None
        self.runs[dtype] += 1
        for policy, names in rejected(results, solution, LEVELS[GRADIENTS]).items():
            for level in (OUTPUT, GRADIENTS):
                if names & set(LEVELS[level]):
                    self.rejections[policy, dtype, level] += 1
                    self.places.add((policy, dtype, level, case))
            if policy == OURS and names:
                self.ours.append(f"{variant}, {case}, {dtype}: {', '.join(sorted(map(str, names)))}")


def run_correct(spec: Spec, **chosen: Any) -> tuple[Correct, parity.Report]:
    """Run the harness as a user does, and judge each result by every policy as it comes in."""
    correct, judge_outcome = Correct(), Judge.outcome

    def measuring(judge: Judge, runner: str, task: Task, outcome: Outcome, cannot: Mapping[str, str]) -> list[Cell]:
        if isinstance(outcome, Results):
            variant = f"{runner} {'compiled' if task.job.compiled else 'eager'}"
            correct.add(variant, task, outcome.outputs, outcome.solution)
        return judge_outcome(judge, runner, task, outcome, cannot)

    with mock.patch.object(Judge, "outcome", measuring):
        report = parity.run(spec, **chosen, progress=_progress, timeout=600.0)
    for cell in report.cells:
        correct.use[cell.dtype] = max(correct.use[cell.dtype], cell.judgement.budget_use or 0.0)
    return correct, report


def in_turn() -> float:
    """The share of the means' budget that a float32 sum of one term after the other uses on the photographs."""
    from eca_multi.parity.specs._eca_oracle import solve

    (task,) = tasks(SPEC, [SPEC.case("photographs")], ["float32"], BASE)
    x, (mean, error) = task.job.inputs["x"], solve(task.job)["pooled"]
    rows = x.reshape(*mean.shape, -1)
    last = np.cumsum(rows, -1, dtype=np.float32)[..., -1] / np.float32(rows.shape[-1])
    return float((np.abs(last - mean) / (SAFETY["analytic"] * error)).max())


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} runs ({what})".ljust(60), end="", file=sys.stderr)


# --- mutants


@dataclass
class Kills:
    """What the policies said about mutants. A pair is a case and a mutant that applies to it."""

    mutants: dict[str, None] = field(default_factory=dict)
    pairs: Counter[str] = field(default_factory=Counter)  # by dtype
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by policy, dtype and level
    lost: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    missed: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by the budget, by case and dtype
    void: set[tuple[str, str, str]] = field(default_factory=set)  # case, dtype and mutant that changes no bit


def run_mutants(cases: Sequence[str] | None, unusable: set[tuple[str, str, str, str]]) -> Kills:
    """Judge each mutant in each case by every policy.

    A policy that rejects a correct run of a case cannot use the case: it would have to be switched off there.
    """
    from eca_multi.parity.engines.torch import TorchEngine
    from eca_multi.parity.mutants.layer import mutants
    from eca_multi.parity.specs._eca_oracle import solve

    engine, kills = TorchEngine(Torch()), Kills()
    chosen = [case for case in SPEC.cases if cases is None or case.name in cases]
    for task in tasks(SPEC, chosen, list(DTYPES), BASE):
        job = replace(task.job, taps=tuple(SPEC.taps))
        case, dtype, solution = job.case, job.dtype, identified(solve(job), job)
        plain = engine.evaluate(job)
        right = rejected(plain, solution, LEVELS[TAPS])
        by_mutant, same = {}, set()
        for name, results in mutants(engine, job):
            if results is not None:
                by_mutant[name] = rejected(results, solution, LEVELS[TAPS])
                if all(np.array_equal(results[n].values, plain[n].values) for n in LEVELS[GRADIENTS]):
                    same.add(name)
        kills.mutants |= dict.fromkeys(by_mutant)
        kills.pairs[dtype] += len(by_mutant)
        kills.missed[case, dtype] = [n for n, r in by_mutant.items() if not r[OURS] & set(LEVELS[GRADIENTS])]
        kills.void |= {(case, dtype, name) for name in same}
        for policy, level in product(POLICIES, LEVELS):
            names = set(LEVELS[level])
            known = (policy, dtype, GRADIENTS if level == TAPS else level, case) in unusable
            if known or right[policy] & names:
                kills.lost[policy, dtype, level] += len(by_mutant)
            else:
                kills.found[policy, dtype, level] += sum(bool(r[policy] & names) for r in by_mutant.values())
    return kills


# --- the page


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def alarm_table(correct: Correct) -> str:
    rows = []
    for policy in POLICIES:
        counts = ([correct.rejections[policy, dtype, level] for level in (OUTPUT, GRADIENTS)] for dtype in DTYPES)
        rows.append([policy, *(f"{y} / {both}" for y, both in counts)])
    return table(("policy", *(f"{dtype}, of {correct.runs[dtype]}" for dtype in DTYPES)), rows)


def kill_table(kills: Kills, dtype: str) -> str:
    def cell(policy: str, level: str) -> str:
        found, lost = kills.found[policy, dtype, level], kills.lost[policy, dtype, level]
        return f"{found}, {lost} lost" if lost else str(found)

    rows = [[policy, *(cell(policy, level) for level in LEVELS)] for policy in POLICIES]
    return table((f"{dtype}, of {kills.pairs[dtype]}", *LEVELS), rows)


def missed_table(kills: Kills) -> str:
    def names(case: str, dtype: str) -> str:
        missed = [n + " (no bit changes)" * ((case, dtype, n) in kills.void) for n in kills.missed[case, dtype]]
        return ", ".join(missed) or "none"

    cases = dict.fromkeys(case for case, _ in kills.missed)
    return table(("case", *DTYPES), [[case, *(names(case, dtype) for dtype in DTYPES)] for case in cases])


def nowhere(kills: Kills) -> str:
    """Say which faults the budget finds in no case."""
    left = []
    for dtype in DTYPES:
        missed = [set(names) for (_, d), names in kills.missed.items() if d == dtype]
        if everywhere := set.intersection(*missed):
            left.append(f"{dtype}: {', '.join(sorted(everywhere))}")
    return f"Found in no case: {'; '.join(left)}." if left else "Each fault is found in some case in each dtype."


def alarms(correct: Correct) -> str:
    text = (
        f"{sum(correct.runs.values())} runs: {len(correct.variants)} variants ({', '.join(sorted(correct.variants))}). "
    )
    if correct.ours:
        return text + "The error budget rejects:\n\n" + "\n".join(f"- {line}" for line in sorted(correct.ours))
    largest = ", ".join(f"{correct.use[dtype]:.2f} in {dtype}" for dtype in DTYPES)
    return text + f"The error budget rejects **none**. The largest share of it that any of them used: {largest}."


PAGE_TEXT = """\
# Measured: how often the verdicts are wrong

`benchmarks/parity_verdicts.py` measures every number of this page and writes the page. A verdict can be wrong in two
ways: it rejects a correct implementation, or it accepts a faulty one. This page counts both, for the error budget of
[the harness](parity.md) and for common tolerances, on the same results.

## False alarms

A run is a variant of an implementation, a case and a dtype. Each cell counts the runs that a policy rejects: by the
output y / by y or any of the gradients dx and dw, each with a random cotangent and with ones. The two numbers of a
tolerance are rtol and atol; the tolerance compares with the reference rounded to the dtype.

The layers of this package: {own}

{own_table}

These layers compute in float32 and round once, so tolerances reject few of them. The formula as people usually write
it in PyTorch (a mean, a convolution and a sigmoid, each rounded to the dtype) is correct too: {step}

{step_table}

The second table leaves out the case fp16-range, in which the gradients of the usual formula overflow in float16.

## Planted faults

The PyTorch layer with one of {count} faults: {mutants}. A pair is a case and a fault that applies to the case. Each
cell counts the pairs in which a policy finds the fault: by y; by y and the gradients; by these and the taps (the
means, the convolution, the gate, and their gradients). "Lost" counts the pairs whose case makes the policy reject one
of the correct runs above: nobody can use the policy on such a case.

{kills}

## What each case misses

The faults that the error budget does not find by y and the gradients. {nowhere} In half precision some faults change
the result of some cases less than the rounding of a correct implementation may.

{missed}

## How this page was made

`{command}` took {seconds}, on {processor}, {system}, without a GPU. Python {python}, {versions}. All data come from
fixed seeds: another run on such a machine gives the same numbers, except for the seconds.

## Limits of this measurement

- One layer. ECA's budget comes from an analysis of its formula. Other layers get a stochastic budget, which tests
  measure and this page does not.
- CPUs only: no GPU or TPU, where reduced precision and other orders of summation are usual.
- The budget assumes that the error of a sum grows with the square root of the number of terms, because roundings go
  either way. A sum of nearly equal terms, one after the other, rounds all terms the same way: on the photographs such
  a float32 sum would use {in_turn} of the means' budget, and more on larger maps. Frameworks sum in blocks; a loop
  from a compiler may not.
- The oracle, the tests and the agreement of the runs are the evidence that the runs are correct. A mistake that all of
  them share would count as correct.
- The faults are typical ones, planted one at a time. Finding these faults does not prove that the budget finds others.
- Keras on PyTorch is compared eagerly only, because compiling it takes minutes. This page does not compare mixed
  precision, training, NaN and infinity.
{absent}"""


def wrapped(text: str) -> str:
    """Wrap the paragraphs, which have got longer by what was put in; tables, lists and headings have their lines."""
    blocks = text.split("\n\n")
    kept = ("|", "-", "#")
    return "\n\n".join(
        block if block.startswith(kept) else fill(block, 120, break_long_words=False, break_on_hyphens=False)
        for block in blocks
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two runners and four cases, to standard output")
    parser.add_argument("--output", type=Path, help=f"the page; docs/{PAGE.name} unless --quick")
    options = parser.parse_args()
    start = time.monotonic()
    spec = replace(SPEC, runners={**SPEC.runners, "torch:channels-last": ChannelsLast})
    own, report = run_correct(spec, **(QUICK if options.quick else {}))
    cases = [c.name for c in SPEC.cases if c.name != "fp16-range" and (not options.quick or c.name in QUICK["cases"])]
    step, _ = run_correct(replace(SPEC, runners={"torch:stepwise": Stepwise}), cases=cases)
    kills = run_mutants(QUICK["cases"] if options.quick else None, own.places | step.places)
    versions = {name: version for runner in report.runners for name, version in runner.versions.items()}
    absent = [f"- Not installed, and so not run: {r.name}.\n" for r in report.runners if r.state == "unavailable"]
    failed = [f"{r.name} {r.state}: {r.detail}" for r in report.runners if r.state not in ("ran", "unavailable")]
    failed += [describe(cell) for cell in report.cells if cell.verdict is parity.Verdict.ERROR]
    if failed:
        sys.exit("\n".join(failed))
    text = wrapped(
        PAGE_TEXT.format(
            own=alarms(own),
            own_table=alarm_table(own),
            step=alarms(step),
            step_table=alarm_table(step),
            count=len(kills.mutants),
            mutants=", ".join(kills.mutants),
            kills="\n\n".join(kill_table(kills, dtype) for dtype in DTYPES),
            nowhere=nowhere(kills),
            missed=missed_table(kills),
            command="python benchmarks/parity_verdicts.py" + (" --quick" if options.quick else ""),
            seconds=f"{time.monotonic() - start:.0f} s",
            processor=report.environment["processor"],
            system=platform.system(),
            python=report.environment["python"],
            versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
            in_turn=f"{in_turn():.2f}",
            absent="".join(absent),
        )
    )
    output = options.output or (None if options.quick else PAGE)
    if output is None:
        print(text)
    else:
        output.write_text(text.rstrip() + "\n" + kept(output))


if __name__ == "__main__":
    main()
