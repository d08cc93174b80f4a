"""What attention adds to a training step of ResNet-50 in torch: ours beside the usual implementations.

Networks that differ in their attention alone take turns in every round. An implementation's overhead is its step less
the plain network's of the same round; a median over the rounds of differences, since each is small beside the step.

    python benchmarks/inside_resnet.py --out docs/measured
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _timing import Run, interleave
from layers_torch import LAYOUTS, AdaptivePool, MeanAndView
from networks import attention
from torch import nn

from eca_multi import eca_kernel_size
from eca_multi.torch import eca_resnet50

PLAIN, OURS = "no attention", "ours"
USUAL = {"adaptive pool": AdaptivePool, "mean and view": MeanAndView}


def network(name: str) -> nn.Module:
    def layer(channels: int, *_: Any, **__: Any) -> nn.Module:
        return USUAL[name](eca_kernel_size(channels)) if name in USUAL else nn.Identity()

    with attention("torch", None if name == OURS else layer):
        return eca_resnet50(num_classes=1000)


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


def steps(batch: int, size: int, layout: str) -> dict[str, Run]:
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=form)
    labels = torch.arange(batch)
    runs: dict[str, Run] = {}
    for name in (PLAIN, OURS, *USUAL):
        model = network(name).to(memory_format=form)
        runs[name] = partial(step, model, images, labels, torch.optim.SGD(model.parameters(), 0.01))
    return runs


def overhead(seconds: dict[str, list[float]], name: str) -> tuple[float, float, float]:
    """Median and quartiles over the rounds of what a step takes more than the plain network's, in its time."""
    more = [a / b - 1 for a, b in zip(seconds[name], seconds[PLAIN], strict=True)]
    low, median, high = statistics.quantiles(more, n=4)
    return median, low, high


def table(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| layout | ours | adaptive pool | mean and view | ours / the least of the usual |",
        "|---|---|---|---|---|",
    ]
    for c in cells:
        found = {name: overhead(c["seconds"], name) for name in (OURS, *USUAL)}
        shown = [f"{m:.1%} ({low:.1%} to {high:.1%})" for m, low, high in found.values()]
        to_usual = found[OURS][0] / min(found[name][0] for name in USUAL)
        lines.append(f"| {c['layout'].replace('_', ' ')} | {' | '.join(shown)} | {to_usual:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--out", type=Path, help="folder of inside-resnet.json")
    asked = parser.parse_args()
    cells = []
    for layout in asked.layout or LAYOUTS:
        seconds = interleave(steps(asked.batch, asked.size, layout), asked.rounds)
        cells.append({"layout": layout, "batch": asked.batch, "size": asked.size, "seconds": seconds})
        print(table(cells[-1:]).splitlines()[2], flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "inside-resnet.json").write_text(json.dumps({"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
