"""Write docs/study.md and its picture; every number and every verdict follows from the records."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from .compare import Difference, Record, differences
from .networks import KINDS, WIDTHS
from .tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = """# A worked study: is attention worth it on small data?

{verdict}

This page answers a question that people ask before they put attention into a network, on data that everybody has: the
tables that scikit-learn bundles. `make study` makes the page again: {runs} trainings, {seeds} seeds for each
kind of attention on each task. The code is in `benchmarks/study/`.

## What was compared

A residual network of three blocks ({widths} channels, two convolutions each), AdamW, one cycle of the rate. Half of
the samples train it, half test it. **Runs of one seed are pairs**: the same halves, the same initial weights of all
that is not attention, the same batches. Attention stands at the end of each branch, before the shortcut is added.

{tasks}

`none` is the network without attention; SE is squeeze-and-excitation with a reduction of 16; ECA takes its kernel from
the rule, which gives k = 3, 3 and 5 here; ECA-NS has a kernel for each channel. Wine's columns have no order that
means something to a convolution: that task is a control as much as a task.

## Accuracy

Percent of the test half, mean over the seeds; in brackets the standard deviation.

{accuracy}

## Differences from the network without attention

The mean over the seeds of the paired difference, with Student's 95 % interval. **Bold** is what may be claimed when all
{comparisons} comparisons of a table are looked at together (Holm, 5 %); every other interval that misses 0 is what
chance brings when one looks {comparisons} times.

Accuracy, in points of percent (above 0: better with attention):

{accuracy_differences}

Cross-entropy on the test half, in 0.01 nats (below 0: better with attention):

{loss_differences}

![Paired differences in accuracy, each dot a seed, each line an interval](measured/study.svg)

## ECA beside SE and beside other kernels

The same differences, with ECA by the rule as the base.

{against_eca}

## What it costs

Parameters that attention adds to the network's {base_parameters}, and the time of a training step over the plain
network's (median and quartiles of paired rounds, one thread). These maps are so small that the time is that of the
calls, not of the memory; [Speed](speed.md) has the maps of real networks.

{cost}

## What such data can show, and what not

- The least difference that this study would have seen on a task is about the half-width of its intervals:
  {widths_of_intervals}. A smaller effect may exist.
- Channel attention was made for networks of fifty layers and a thousand classes. These networks have three blocks, and
  most test samples are right without attention: there is little left to win.
- The intervals are over seeds, so over initial weights, halves and batches together. They say nothing about other
  networks.
- The rate and the epochs were chosen once, on `none` and ECA at seed 0, and not tuned for any kind.
"""


def write(records: Sequence[Record], times: dict[str, dict[str, list[float]]]) -> None:
    """Write the page and the picture from the records of all runs and the times of a step."""
    accuracy, loss = differences(records, "accuracy"), differences(records, "loss")
    seeds = len({record["seed"] for record in records})
    text = PAGE.format(
        verdict=verdict(accuracy, loss),
        runs=len(records),
        seeds=seeds,
        widths=", ".join(map(str, WIDTHS)),
        tasks="\n".join(f"- **{task.name}**: {task.about}" for task in TASKS.values()),
        accuracy=_table("", TASKS, KINDS, lambda task, kind: _cell(records, task, kind)),
        comparisons=len(accuracy),
        accuracy_differences=_differences(accuracy, 1),
        loss_differences=_differences(loss, 100),
        against_eca=_differences(differences(records, "accuracy", "ECA"), 1),
        base_parameters=f"{_of(records, 'parameters', 'digits, images', 'none')[0]:,} (images)",
        cost=_cost(records, times),
        widths_of_intervals=_half_widths(accuracy),
    )
    (DOCS / "study.md").write_text(text, encoding="utf-8")
    picture(records, accuracy, DOCS / "measured" / "study.svg")


def verdict(accuracy: Sequence[Difference], loss: Sequence[Difference]) -> str:
    """Say in words what may be claimed, from both measures."""
    better = [d for d in accuracy if d.claimed and d.mean > 0]
    worse = [d for d in accuracy if d.claimed and d.mean < 0]
    count = len(accuracy)
    if not better and not worse:
        said = f"**No difference in accuracy.** Of {count} comparisons with the network without attention none holds"
    else:
        said = (
            f"**In accuracy, {len(better)} of {count} comparisons are better with attention and {len(worse)} worse"
            f"{_names(better, worse)}; the rest shows no difference**, beyond what chance explains"
        )
    lower, higher = ([d for d in loss if d.claimed and (d.mean < 0) is low] for low in (True, False))
    return (
        f"{said}. In cross-entropy, {len(lower)} of {len(loss)} are better and {len(higher)} worse"
        f"{_names(lower, higher)}."
    )


def _names(better: Sequence[Difference], worse: Sequence[Difference]) -> str:
    parts = []
    for word, of in (("better", better), ("worse", worse)):
        for task in dict.fromkeys(d.task for d in of):
            parts.append(f"{word} on {task}: " + "; ".join(d.kind for d in of if d.task == task))
    return f" ({'. '.join(parts)})" if parts else ""


def _of(records: Sequence[Record], measure: str, task: str, kind: str) -> list[float]:
    return [record[measure] for record in records if record["task"] == task and record["kind"] == kind]


def _cell(records: Sequence[Record], task: str, kind: str) -> str:
    values = _of(records, "accuracy", task, kind)
    return f"{statistics.mean(values):.1f} ({statistics.stdev(values):.1f})"


def _table(corner: str, columns: Sequence[str] | dict, rows: Sequence[str] | dict, cell) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cell(column, row) for column in columns)} |" for row in rows)])


def _differences(found: Sequence[Difference], scale: float) -> str:
    by = {(d.task, d.kind): d for d in found}

    def cell(task: str, kind: str) -> str:
        d = by[task, kind]
        text = f"{scale * d.mean:+.2f} ({scale * d.low:+.2f} to {scale * d.high:+.2f})"
        return f"**{text}**" if d.claimed else text

    return _table("", list(TASKS), list(dict.fromkeys(d.kind for d in found)), cell)


def _cost(records: Sequence[Record], times: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| | parameters added | " + " | ".join(f"time, {task}" for task in times) + " |"]
    lines.append("|" + "---|" * (len(times) + 2))
    plain = _of(records, "parameters", "digits, images", "none")[0]
    for kind in (kind for kind in KINDS if kind != "none"):
        added = _of(records, "parameters", "digits, images", kind)[0] - plain
        shown = (f"{of[kind][0]:.2f} ({of[kind][1]:.2f} to {of[kind][2]:.2f})" for of in times.values())
        lines.append(f"| {kind} | {added:,} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _half_widths(found: Sequence[Difference]) -> str:
    halves = {task: statistics.median((d.high - d.low) / 2 for d in found if d.task == task) for task in TASKS}
    return ", ".join(f"{half:.1f} points on {task}" for task, half in halves.items())


def picture(records: Sequence[Record], found: Sequence[Difference], file: Path) -> None:
    """One panel for each task: each seed's difference from no attention as a dot, the interval as a line."""
    plt.rcParams["svg.hashsalt"] = "eca_multi"  # equal results, equal bytes
    figure, panels = plt.subplots(1, len(TASKS), figsize=(11, 3.2), sharey=True)
    kinds = [kind for kind in KINDS if kind != "none"]
    plain = {(r["task"], r["seed"]): r["accuracy"] for r in records if r["kind"] == "none"}
    for panel, task in zip(panels, TASKS, strict=True):
        for height, kind in enumerate(reversed(kinds)):
            own = [r for r in records if r["task"] == task and r["kind"] == kind]
            moved = [r["accuracy"] - plain[task, r["seed"]] for r in own if (task, r["seed"]) in plain]
            panel.plot(moved, [height] * len(moved), "o", color="#bbbbbb", markersize=3)
            difference = next(d for d in found if d.task == task and d.kind == kind)
            colour = "#d55e00" if difference.claimed else "#0072b2"
            panel.plot([difference.low, difference.high], [height] * 2, color=colour, linewidth=2)
            panel.plot([difference.mean], [height], "D", color=colour, markersize=4)
        panel.axvline(0, color="grey", linewidth=1)
        panel.set(title=task, xlabel="accuracy, points from none")
    panels[0].set_yticks(range(len(kinds)), reversed(kinds))
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
