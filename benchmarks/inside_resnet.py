"""What attention takes of a training step of ResNet-50 in torch: ours beside the usual implementations.

Hooks before and after each attention, forward and backward, time it inside the step: two whole steps differ by more
than it takes. Networks that differ in their attention alone take turns; medians over the rounds are reported. The floor
is what any gate must do, as in layers_torch.py.

    python benchmarks/inside_resnet.py --out docs/measured
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from layers_torch import LAYOUTS, AdaptivePool, Floor, MeanAndView
from networks import attention
from torch import nn

from eca_multi import eca_kernel_size
from eca_multi.torch import ECA, eca_resnet50

OURS, FLOOR = "ours", "floor"
USUAL = {"adaptive pool": AdaptivePool, "mean and view": MeanAndView}


class Bare(nn.Module):
    """The floor as a layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = Floor.apply(x)
        return y


class Clock:
    """Adds up the time between its start and its stop."""

    def __init__(self) -> None:
        self.spent = self.started = 0.0

    def start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.spent += time.perf_counter() - self.started

    def watch(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.start)
        module.register_forward_hook(self.stop)
        module.register_full_backward_pre_hook(self.start)
        module.register_full_backward_hook(self.stop)


class Training:
    """A network, its clock and what a step needs."""

    def __init__(self, name: str, batch: int, size: int, layout: str) -> None:
        def other(channels: int, *_: Any, **__: Any) -> nn.Module:
            return USUAL[name](eca_kernel_size(channels)) if name in USUAL else Bare()

        with attention("torch", None if name == OURS else other):
            model = eca_resnet50(num_classes=1000)
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.model = model.to(memory_format=form)
        self.images = torch.randn(batch, 3, size, size).contiguous(memory_format=form)
        self.labels = torch.arange(batch)
        self.optimizer = torch.optim.SGD(model.parameters(), 0.01)
        self.clock = Clock()
        watched = [module for module in model.modules() if isinstance(module, ECA | AdaptivePool | Bare)]
        if len(watched) != len(model.network.blocks):
            raise RuntimeError(f"{len(watched)} attentions in {len(model.network.blocks)} blocks")
        for module in watched:
            self.clock.watch(module)

    def step(self) -> float:
        """Train once; return what attention added to the rest of the step, in the rest's time."""
        self.clock.spent = 0.0
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        return self.clock.spent / (time.perf_counter() - begin - self.clock.spent)


def cell(batch: int, size: int, layout: str, rounds: int) -> dict[str, Any]:
    made = {name: Training(name, batch, size, layout) for name in (OURS, *USUAL, FLOOR)}
    added: dict[str, list[float]] = {name: [] for name in made}
    order = list(made)
    for turn in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            more = made[name].step()
            if turn:  # the first one allocates, and chooses kernels
                added[name].append(more)
    return {"layout": layout, "batch": batch, "size": size, "added": added}


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| layout | ours | adaptive pool | mean and view | floor | ours / least of usual |", "|" + "---|" * 6]
    for c in cells:
        quartiles = {name: statistics.quantiles(added, n=4) for name, added in c["added"].items()}
        shown = [f"{median:.1%} ({low:.1%} to {high:.1%})" for low, median, high in quartiles.values()]
        to_usual = quartiles[OURS][1] / min(quartiles[name][1] for name in USUAL)
        lines.append(f"| {c['layout'].replace('_', ' ')} | {' | '.join(shown)} | {to_usual:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--out", type=Path, help="folder of inside-resnet.json")
    asked = parser.parse_args()
    cells = []
    for layout in asked.layout or LAYOUTS:
        cells.append(cell(asked.batch, asked.size, layout, asked.rounds))
        print(table(cells[-1:]).splitlines()[2], flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "inside-resnet.json").write_text(json.dumps({"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
