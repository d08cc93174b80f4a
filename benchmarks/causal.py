"""Causal ECA in torch beside the convolution that it follows: a Conv1d of the same width, padded on the left.

A gate of its own at each step makes the gates as large as the sequence. The table shows times relative to the
convolution's, in medians of the ratios within a round, forward and with the gradient: causal ECA, ECA over all
positions, and a running mean as it is usually written, in x's dtype.

    python benchmarks/causal.py --out docs/measured       # causal.json and a table
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _timing import interleave, ratio
from torch import nn

from eca_multi import eca_kernel_size
from eca_multi.torch import ECA

SHAPES = ((8, 64, 1024), (8, 256, 4096), (1, 64, 1 << 18))
DTYPES = ("float32", "bfloat16")
CONV, OURS, ALL, USUAL = "convolution", "causal ECA", "ECA over all positions", "usual running mean"


class CausalConv(nn.Module):
    """The convolution of a causal network: three taps, none of them ahead."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(F.pad(x, (2, 0)))
        return y


class RunningMean(nn.Module):
    """ECA's gate from a running mean, as one writes it by hand."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, (k, 1), padding=(k // 2, 0), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(1, x.shape[-1] + 1, device=x.device)
        means = (x.cumsum(-1) / steps).to(x.dtype)
        return x * torch.sigmoid(self.conv(means.unsqueeze(1)).squeeze(1))


def cell(shape: tuple[int, ...], dtype: str, rounds: int) -> dict[str, Any]:
    channels = shape[1]
    made = {
        CONV: CausalConv(channels),
        OURS: ECA(channels, causal_axis=2),
        ALL: ECA(channels),
        USUAL: RunningMean(eca_kernel_size(channels)),
    }
    layers = {name: layer.to(getattr(torch, dtype)) for name, layer in made.items()}
    x = torch.randn(shape).to(getattr(torch, dtype)).requires_grad_()
    dy = torch.randn(shape).to(x.dtype)

    def forward(layer: nn.Module) -> None:
        with torch.no_grad():
            layer(x)

    def both(layer: nn.Module) -> None:
        torch.autograd.grad(layer(x), (x, *layer.parameters()), dy)

    seconds = {
        run.__name__: interleave({name: partial(run, layer) for name, layer in layers.items()}, rounds)
        for run in (forward, both)
    }
    return {"shape": shape, "dtype": dtype, "seconds": seconds}


def table(cells: list[dict[str, Any]]) -> str:
    """Times over the convolution's, forward and with the gradient."""
    shown = (OURS, ALL, USUAL)
    lines = [f"| x | dtype | {' | '.join(shown)} |", "|" + "---|" * (len(shown) + 2)]
    for c in cells:
        kinds = c["seconds"].values()
        texts = [", ".join(f"{ratio(seconds[name], seconds[CONV])[0]:.2f}" for seconds in kinds) for name in shown]
        lines.append(f"| {' x '.join(map(str, c['shape']))} | {c['dtype']} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--out", type=Path, help="folder of causal.json")
    asked = parser.parse_args()
    cells = []
    for shape in asked.shape or SHAPES:
        for dtype in asked.dtype or DTYPES:
            cells.append(cell(shape, dtype, asked.rounds))
            print(table(cells[-1:]).splitlines()[2], flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "causal.json").write_text(json.dumps({"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
