"""What attention takes of a training step and of inference of ResNet-50 in torch: ours beside the usual code.

A clock runs while a block gates its branch and adds the shortcut, forward and backward: two whole steps differ by more
than that takes. Networks that differ in their attention alone take turns. One of them only adds; an overhead is what a
network's clock shows beyond that one's, in the same round. The floor is what any gate must do, as in layers_torch.py.

    python benchmarks/inside_resnet.py --out docs/measured
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from layers_torch import LAYOUTS, AdaptivePool, Floor, MeanAndView
from networks import attention
from torch import nn

from eca_multi import eca_kernel_size
from eca_multi.torch import ECA, _blocks, eca_resnet50

OURS, APART, PLAIN, FLOOR = "ours", "ours, added apart", "no attention", "floor"
USUAL = {"adaptive pool": AdaptivePool, "mean and view": MeanAndView}
KINDS = ("training", "inference")
gated_sum = _blocks.gated_sum


class Bare(nn.Module):
    """The floor as a layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = Floor.apply(x)
        return y


class Apart(ECA):
    """Our layer, to which a block gives no residual: another class may not take one."""


OTHERS = {
    APART: Apart,
    PLAIN: lambda *_, **__: nn.Identity(),
    FLOOR: lambda *_, **__: Bare(),
    **{name: lambda channels, *_, usual=usual, **__: usual(eca_kernel_size(channels)) for name, usual in USUAL.items()},
}


class Clock:
    """Adds up the time between its start and its stop."""

    def __init__(self) -> None:
        self.spent = self.started = 0.0
        self.calls = 0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.spent += time.perf_counter() - self.started
        self.calls += 1

    def gated_sum(self, eca: nn.Module, drop_path: nn.Module, branch: torch.Tensor, shortcut: torch.Tensor) -> Any:
        """The end of a block, with the clock on while it runs and while its gradient is taken."""
        branch, shortcut = Enter.apply(branch, shortcut, self)
        self.start()
        y = gated_sum(eca, drop_path, branch, shortcut)
        self.stop()
        if y.requires_grad:
            y.register_hook(lambda _: self.start())
        return y


class Enter(torch.autograd.Function):
    """Stops the clock in the backward pass, before the gradients go further than to the attention's inputs."""

    @staticmethod
    def forward(ctx: Any, branch: torch.Tensor, shortcut: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, ...]:
        ctx.clock = clock
        return branch.view_as(branch), shortcut.view_as(shortcut)

    @staticmethod
    def backward(ctx: Any, d_branch: torch.Tensor, d_shortcut: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        ctx.clock.stop()
        return d_branch, d_shortcut, None


class Network:
    """A network, its clock and what a step needs."""

    def __init__(self, name: str, batch: int, size: int, layout: str) -> None:
        with attention("torch", OTHERS.get(name)):
            model = eca_resnet50(num_classes=1000)
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.model = model.to(memory_format=form)
        self.images = torch.randn(batch, 3, size, size).contiguous(memory_format=form)
        self.labels = torch.arange(batch)
        self.optimizer = torch.optim.SGD(model.parameters(), 0.01)
        self.clock = Clock()

    def run(self, kind: str) -> float:
        """Train once, or infer; return what the ends of the blocks added to the rest, in the rest's time."""
        self.clock.spent, self.clock.calls = 0.0, 0
        blocks = len(self.model.network.blocks)
        with mock.patch.object(_blocks, "gated_sum", self.clock.gated_sum):
            begin = time.perf_counter()
            self.train() if kind == "training" else self.infer()
            whole = time.perf_counter() - begin
        if self.clock.calls != blocks * (2 if kind == "training" else 1):
            raise RuntimeError(f"the clock ran {self.clock.calls} times in {blocks} blocks")
        return self.clock.spent / (whole - self.clock.spent)

    def train(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def infer(self) -> None:
        self.model.eval()
        with torch.inference_mode():
            self.model(self.images)


def cells(batch: int, size: int, layout: str, rounds: int) -> list[dict[str, Any]]:
    """Measure training, and inference after it: the networks of both are the same."""
    made = {name: Network(name, batch, size, layout) for name in (OURS, APART, *USUAL, FLOOR, PLAIN)}
    measured = []
    for kind in KINDS:
        added: dict[str, list[float]] = {name: [] for name in made}
        order = list(made)
        for turn in range(rounds + 1):
            random.shuffle(order)
            for name in order:
                more = made[name].run(kind)
                if turn:  # the first one allocates, and chooses kernels
                    added[name].append(more)
        measured.append({"kind": kind, "layout": layout, "batch": batch, "size": size, "added": added})
    return measured


def overheads(added: dict[str, list[float]], name: str) -> list[float]:
    """What attention added beyond the sum with the shortcut, in each round."""
    return [more - least for more, least in zip(added[name], added[PLAIN], strict=True)]


def table(cells: list[dict[str, Any]]) -> str:
    shown = (OURS, APART, *USUAL, FLOOR)
    lines = [f"| | {' | '.join(shown)} | ours / least of usual |", "|" + "---|" * (len(shown) + 2)]
    for c in cells:
        added = {name: overheads(c["added"], name) for name in shown}
        quartiles = {name: statistics.quantiles(added[name], n=4) for name in shown}
        texts = [f"{median:.1%} ({low:.1%} to {high:.1%})" for low, median, high in quartiles.values()]
        usual = min(USUAL, key=lambda name: quartiles[name][1])
        to_usual = statistics.median(a / b for a, b in zip(added[OURS], added[usual], strict=True))
        lines.append(f"| {c['kind']}, {c['layout'].replace('_', ' ')} | {' | '.join(texts)} | {to_usual:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--out", type=Path, help="folder of inside-resnet.json")
    asked = parser.parse_args()
    measured = []
    for layout in asked.layout or LAYOUTS:
        measured += cells(asked.batch, asked.size, layout, asked.rounds)
        print("\n".join(table(measured[-len(KINDS) :]).splitlines()[2:]), flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "inside-resnet.json").write_text(json.dumps({"cells": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
