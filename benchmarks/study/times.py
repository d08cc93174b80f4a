"""The time of one training step of each kind of attention, side by side."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks._timing import interleave, ratio

from .networks import KINDS, build
from .tasks import TASKS, Task, split
from .train import BATCH


def measure(rounds: int = 31) -> dict[str, dict[str, list[float]]]:
    """For each task and kind: median and quartiles of the step's time over the plain network's, paired by round."""
    return {task.name: _measure(task, rounds) for task in TASKS.values()}


def _measure(task: Task, rounds: int) -> dict[str, list[float]]:
    data = split(task, 0)
    x, y = data.train_x[:BATCH], data.train_y[:BATCH]
    steps: dict[str, Callable[[], Any]] = {
        kind: _step(build(kind, x.shape[1], x.ndim - 2, data.classes, 0), x, y) for kind in KINDS
    }
    seconds = interleave(steps, rounds)
    return {kind: list(ratio(seconds[kind], seconds["none"])) for kind in KINDS if kind != "none"}


def _step(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
    optimizer = torch.optim.AdamW(network.parameters(), 0.0)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()

    return step
