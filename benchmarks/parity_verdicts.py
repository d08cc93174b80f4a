"""Measure the verdicts of the parity harness: how often they reject what is right, and how often they see what is wrong.

    python benchmarks/parity_verdicts.py [--quick] [--output docs/measured-parity.md]

Runs every runner of ECA through the harness and judges the same results by several policies; then judges mutants of the
PyTorch layer, which have one fault each. Writes a page, each number of which comes from the run; --quick takes a part of
the cases and runners, and prints the page.
"""

import argparse
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import load_file

from eca_multi import parity
from eca_multi.parity.budget import DTYPES, SAFETY, quantise
from eca_multi.parity.compare import judge
from eca_multi.parity.jobs import ONES, Outputs, Tensor
from eca_multi.parity.judging import Solution
from eca_multi.parity.plan import BASE, Task, tasks
from eca_multi.parity.spec import Spec
from eca_multi.parity.specs.eca import SPEC, Torch

PAGE = Path(__file__).parents[1] / "docs" / "measured-parity.md"
QUICK = {"runners": ["torch", "jax"], "cases": ["offsets", "same-sign", "circular", "per-channel"]}


class ChannelsLast(Torch):
    """The PyTorch layer on features whose channels lie last in memory."""

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        x = inputs["x"].movedim(1, -1).contiguous().movedim(-1, 1)
        return super().call(layer, {**inputs, "x": x}, config)


# --- policies: may this result stand for this reference?

Accepts = Callable[[Tensor, np.ndarray, np.ndarray], bool]


def budget(actual: Tensor, reference: np.ndarray, error: np.ndarray) -> bool:
    return judge(actual, reference, error, None, SAFETY["analytic"]).verdict.green


def close(rtol: float, atol: float) -> Accepts:
    def accepts(actual: Tensor, reference: np.ndarray, error: np.ndarray) -> bool:
        expected = quantise(reference, actual.dtype)
        return bool(np.isclose(actual.values.astype(np.float64), expected, rtol, atol).all())

    return accepts


# torch.testing.assert_close's table.
ASSERT_CLOSE = {"float32": close(1.3e-6, 1e-5), "float16": close(1e-3, 1e-5), "bfloat16": close(1.6e-2, 1e-5)}


def cosine(actual: Tensor, reference: np.ndarray, error: np.ndarray) -> bool:
    a, b = actual.values.astype(np.float64).ravel(), reference.ravel()
    sizes = np.linalg.norm(a) * np.linalg.norm(b)
    return bool(np.isfinite(a).all() and (a @ b >= 0.99 * sizes))


OURS = "error budget, c = 2"
POLICIES: dict[str, Accepts] = {
    OURS: budget,
    "`torch.testing.assert_close`": lambda a, r, e: ASSERT_CLOSE[a.dtype](a, r, e),
    "Keras's 1e-6, 1e-6": close(1e-6, 1e-6),
    "largest difference 1e-5": close(0.0, 1e-5),
    "1e-3, 1e-3": close(1e-3, 1e-3),
    "cosine 0.99": cosine,
}
GRADIENTS = ("dx", f"dx{ONES}", "dw", f"dw{ONES}")
TAPS = tuple(f"{prefix}{tap}" for prefix in ("", "d_") for tap in SPEC.taps)
LEVELS = {"y": ("y",), "y and gradients": ("y", *GRADIENTS), "and taps": ("y", *GRADIENTS, *TAPS)}


def rejected(results: Outputs, solution: Solution, names: Iterable[str]) -> dict[str, set[str]]:
    """Policy -> the tensors that it rejects."""
    found: dict[str, set[str]] = {policy: set() for policy in POLICIES}
    for name in names:
        for policy, accepts in POLICIES.items():
            if results[name].values.shape != solution[name][0].shape or not accepts(results[name], *solution[name]):
                found[policy].add(name)
    return found


# --- correct runs


@dataclass
class Correct:
    """What the policies said about runs of correct implementations."""

    runs: Counter[str] = field(default_factory=Counter)  # by dtype
    rejections: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    ours: list[str] = field(default_factory=list)
    variants: dict[str, None] = field(default_factory=dict)
    use: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, variant: str, task: Task, results: Outputs, solution: Solution) -> None:
        dtype = task.job.dtype
        self.variants[variant] = None
        self.runs[dtype] += 1
        for policy, names in rejected(results, solution, LEVELS["y and gradients"]).items():
            for level in ("y", "y and gradients"):
                self.rejections[policy, dtype, level] += bool(names & set(LEVELS[level]))
            if policy == OURS and names:
                self.ours.append(f"{variant}, {task.job.case}, {dtype}: {', '.join(sorted(names))}")


def run_correct(spec: Spec, quick: bool) -> tuple[Correct, parity.Report]:
    """Run the harness as a user does, and judge each result by every policy as it comes in."""
    module = import_module("eca_multi.parity.run")
    correct = Correct()

    class Measuring(module.Session):  # type: ignore[misc, name-defined]
        def _judge(self, runner: Any, task: Task, content: dict[str, Any]) -> None:
            if "out" in content:
                arrays = load_file(content["out"])  # the session's own reading removes the file
                results = {name: Tensor(array, content["dtypes"][name]) for name, array in arrays.items()}
                variant = f"{runner.name}, {'compiled' if task.job.compiled else 'eager'}"
                correct.add(variant, task, results, self.solutions[task.oracle])
            super()._judge(runner, task, content)

    chosen: dict[str, Any] = QUICK if quick else {}
    with mock.patch.object(module, "Session", Measuring):
        report = parity.run(spec, **chosen, progress=_progress, timeout=600.0)
    for cell in report.cells:
        correct.use[cell.dtype] = max(correct.use[cell.dtype], cell.judgement.budget_use or 0.0)
    return correct, report


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} runs ({what})".ljust(60), end="", file=sys.stderr)


# --- mutants


@dataclass
class Kills:
    """What the policies said about mutants. A pair is a case and a mutant that applies to it."""

    pairs: Counter[str] = field(default_factory=Counter)  # by dtype
    kills: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    useless: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    unseen: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    missed: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by our budget, by case and dtype
    names: dict[str, None] = field(default_factory=dict)


def run_mutants(cases: Sequence[str] | None) -> Kills:
    """Judge each mutant in each case by every policy.

    A policy that rejects the right layer in a case cannot use that case: it would have to be switched off there.
    """
    from eca_multi.parity.engines._mutants import mutants
    from eca_multi.parity.engines._torch import TorchEngine
    from eca_multi.parity.specs._eca_oracle import solve

    engine, found = TorchEngine(Torch()), Kills()
    killed: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    chosen = [case for case in SPEC.cases if cases is None or case.name in cases]
    for task in tasks(SPEC, chosen, list(DTYPES), BASE):
        job, dtype = replace(task.job, taps=tuple(SPEC.taps)), task.job.dtype
        solution = solve(job)
        every = LEVELS["and taps"]
        right = rejected(engine.evaluate(job), solution, every)
        by_mutant = {name: rejected(r, solution, every) for name, r in mutants(engine, job) if r is not None}
        found.pairs[dtype] += len(by_mutant)
        found.names |= dict.fromkeys(by_mutant)
        found.missed[job.case, dtype] = [
            n for n, r in by_mutant.items() if not r[OURS] & set(LEVELS["y and gradients"])
        ]
        for policy, level in ((p, level) for p in POLICIES for level in LEVELS):
            key, names = (policy, dtype, level), set(LEVELS[level])
            if right[policy] & names:
                found.useless[key] += len(by_mutant)
                continue
            now = {mutant for mutant, tensors in by_mutant.items() if tensors[policy] & names}
            found.kills[key] += len(now)
            killed[key] |= now
    for policy, dtype, level in ((p, d, level) for p in POLICIES for d in DTYPES for level in LEVELS):
        found.unseen[policy, dtype, level] = set(found.names) - killed[policy, dtype, level]
    return found


# --- the page


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def false_alarms(correct: Correct) -> Iterator[Sequence[object]]:
    for policy in POLICIES:
        counts = ([correct.rejections[policy, dtype, level] for level in ("y", "y and gradients")] for dtype in DTYPES)
        yield policy, *(f"{y} / {both}" for y, both in counts)


def kill_rows(found: Kills, dtype: str) -> Iterator[Sequence[object]]:
    for policy in POLICIES:
        cells = []
        for level in LEVELS:
            key = policy, dtype, level
            unseen = len(found.unseen[key])
            cells.append(f"{found.kills[key]} · {found.useless[key]} · {len(found.names) - unseen}")
        yield policy, *cells


def missed_rows(found: Kills) -> Iterator[Sequence[object]]:
    cases = dict.fromkeys(case for case, _ in found.missed)
    for case in cases:
        yield case, *(", ".join(found.missed[case, dtype]) or "–" for dtype in DTYPES)


def page(correct: Correct, report: parity.Report, found: Kills, command: str, seconds: Mapping[str, float]) -> str:
    total = sum(correct.runs.values())
    ours = correct.ours
    alarms = "**no false alarm**" if not ours else f"{len(ours)} rejections, listed below"
    versions = {name: v for runner in report.runners for name, v in runner.versions.items()}
    largest = ", ".join(f"{dtype} {correct.use[dtype]:.2f}" for dtype in DTYPES)
    names = ", ".join(found.names)
    kills = "\n\n".join(
        f"{dtype}, {found.pairs[dtype]} pairs:\n\n{table(('policy', *LEVELS), kill_rows(found, dtype))}"
        for dtype in DTYPES
    )
    variants = "; ".join(correct.variants)
    took = ", ".join(f"{what} {value:.0f} s" for what, value in seconds.items())
    unavailable = [
        f"{runner.name}: {runner.detail or runner.state}" for runner in report.runners if runner.state != "ran"
    ]
    sections = [
        "# Measured: what the verdicts are worth",
        "This page is written by `benchmarks/parity_verdicts.py`, every number of it. A verdict can be wrong in two ways: "
        "it may reject a correct implementation, or accept a faulty one. Both are counted here, for the error budget "
        "of [the harness](parity.md) and for tolerances in common use.",
        "## False alarms",
        f"{total} runs of correct implementations of ECA, a run being a variant of a runner, a case and a dtype: "
        f"{len(correct.variants)} variants, {len(report.cases)} cases. Each cell counts the runs that a policy rejects "
        "by the output y alone / by y or any of the gradients dx and dw, with a random cotangent and with ones. The "
        f"error budget raises {alarms}.",
        table(("policy", *(f"{dtype}, of {correct.runs[dtype]}" for dtype in DTYPES)), false_alarms(correct)),
        f"The largest share of the budget that a correct run used, 1 being all of it: {largest}.",
        *(["Rejected by the error budget:", "\n".join(f"- {line}" for line in ours)] if ours else []),
        *(["Not run: " + "; ".join(unavailable) + "."] if unavailable else []),
        "A tolerance compares with the reference rounded to the dtype; rtol and atol are given in that order. Cosine 0.99 "
        "and 1e-3 hardly ever reject what is right. What they let pass is the next table.",
        "## Planted faults",
        f"The PyTorch layer with one of {len(found.names)} faults ({names}), in the same cases. A pair is a case and a "
        "fault that applies to it. Each cell: pairs whose fault the policy finds · pairs that it cannot use, because in "
        f"that case it rejects the right layer as well · faults, of {len(found.names)}, that some case finds. The columns "
        "look at y, at the gradients too, and at the taps (means, convolution, gate, and their gradients) too.",
        kills,
        "A policy finds a fault only where it accepts the right layer: one that rejects everything has found nothing. The "
        "more tensors a policy looks at, the more cases a wrong tolerance loses.",
        "## What each case misses",
        "Faults that the error budget does not find by y and the gradients. In float32 a fault is missed only where it "
        "changes nothing. In half precision some of these faults are smaller than the rounding of a correct "
        "implementation, and nobody could tell them from it; a case of another size can.",
        table(("case", *DTYPES), missed_rows(found)),
        "## How it was made",
        f"`{command}`, {took}, on {report.environment['processor']}, {platform.system()}, without a GPU. "
        f"Python {report.environment['python']}, numpy {report.environment['numpy']}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if name != "numpy")
        + ". All data come from fixed seeds: another run on the same machine gives the same numbers but for the seconds.",
        f"Variants: {variants}. channels-last is the PyTorch layer on features whose channels lie last in memory.",
        "## What it does not show",
        "- One layer. The budget of ECA comes from an analysis of its formula; other layers get a stochastic one, which "
        "is measured in tests, and not here.\n"
        "- Processors only. Nothing here ran on a GPU or TPU, where reduced precision and other orders of summation "
        "are usual.\n"
        "- That the runs are correct is what the oracle, their tests and each other say; a mistake that all of them share "
        "would be counted as correct.\n"
        "- The faults are typical ones, planted one at a time in PyTorch. Finding all of them is no proof that the next "
        "one is found.\n"
        "- Keras on PyTorch is not compiled here, which takes minutes; nor is mixed precision, training or NaN compared.",
    ]
    return "\n\n".join(sections) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two runners and four cases")
    parser.add_argument("--output", type=Path, help=f"the page; {PAGE.name} in docs/, with --quick standard output")
    options = parser.parse_args()
    start = time.monotonic()
    spec = replace(SPEC, runners={**SPEC.runners, "torch:channels-last": ChannelsLast})
    correct, report = run_correct(spec, options.quick)
    middle = time.monotonic()
    found = run_mutants(QUICK["cases"] if options.quick else None)
    seconds = {"runs": middle - start, "faults": time.monotonic() - middle}
    command = "python benchmarks/parity_verdicts.py" + (" --quick" if options.quick else "")
    text = page(correct, report, found, command, seconds)
    output = options.output or (None if options.quick else PAGE)
    if output is None:
        print(text)
    else:
        output.write_text(text)


if __name__ == "__main__":
    main()
