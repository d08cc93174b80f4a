"""The torch layer beside what people use: forward, forward and backward, and memory, over a grid of feature maps.

All candidates take turns in every round of one process (`_timing.interleave`), and what is reported are medians of the
ratios within a round. The floor is what any gate must do: copy x forward, and multiply two maps backward.

    python benchmarks/layers_torch.py --out docs/measured       # layers-torch.json and a table; minutes
    python benchmarks/layers_torch.py --compiled --shape 8,512,28,28 --out docs/measured    # layers-torch-compiled.json
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _timing import interleave, ratio
from torch import nn

from eca_multi import eca_kernel_size
from eca_multi.torch import ECA

SHAPES = ((1, 64, 7, 7), (32, 2048, 7, 7), (8, 512, 28, 28), (32, 256, 56, 56), (64, 64, 112, 112), (64, 256, 4096))
DTYPES = ("float32", "bfloat16")
LAYOUTS = ("contiguous", "channels_last")
EAGER = ("adaptive pool", "mean and view", "timm")  # the usual implementations


class AdaptivePool(nn.Module):
    """As the paper's code: adaptive pooling, a convolution, and the gate expanded to the map."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool1d
        pooled = pool(x, 1).flatten(2)
        gate = torch.sigmoid(self.conv(pooled.transpose(-1, -2)).transpose(-1, -2))
        return x * gate.reshape(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x)


class MeanAndView(AdaptivePool):
    """As libraries have it: the mean, seen as one channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.conv(x.mean(tuple(range(2, x.ndim))).view(len(x), 1, -1)))
        return x * gate.view(*x.shape[:2], *[1] * (x.ndim - 2)).expand_as(x)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation, with the reduction of 16 of its paper."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, channels // 16), nn.Linear(channels // 16, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(tuple(range(2, x.ndim)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))
        return x * gate.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


class Floor(torch.autograd.Function):
    """What no gate can do without: x is read and y written; dy and x are read and dx written."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return dy * ctx.saved_tensors[0]


def candidates(channels: int, dims: int, dtype: torch.dtype, compiled: bool) -> dict[str, Any]:
    k = eca_kernel_size(channels)
    made: dict[str, Any] = {"ours": ECA(channels, k), "adaptive pool": AdaptivePool(k), "mean and view": MeanAndView(k)}
    if dims == 2 and find_spec("timm"):
        from timm.layers import EcaModule

        made["timm"] = EcaModule(channels)
    made["SE"] = SqueezeExcite(channels)
    made = {name: module.to(dtype) for name, module in made.items()}
    if compiled:
        made |= {f"{name}, compiled": torch.compile(module) for name, module in made.items() if name != "timm"}
    return {**made, "floor": Floor.apply}


def drawn(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    if layout == "channels_last":
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    return x, dy


def cell(shape: tuple[int, ...], dtype: str, layout: str, rounds: int, compiled: bool) -> dict[str, Any]:
    x, dy = drawn(shape, getattr(torch, dtype), layout)
    torch._dynamo.reset()  # or it compiles for this shape what it has compiled for others as dynamic
    made = candidates(shape[1], len(shape) - 2, x.dtype, compiled)

    def forward(module: Any) -> Any:
        def run() -> None:
            with torch.no_grad():
                module(x)

        return run

    def both(module: Any) -> Any:
        leaf = x.detach().requires_grad_()

        def run() -> None:
            leaf.grad = None
            module(leaf).backward(dy)

        return run

    seconds, faults = {}, {}
    for kind, start in (("forward", forward), ("both", both)):
        faults[kind] = dict[str, list[float]]()
        runs = {name: start(module) for name, module in made.items()}
        seconds[kind] = interleave(runs, rounds, faults=faults[kind])
    made_of = {"shape": shape, "dtype": dtype, "layout": layout, "bytes": x.nbytes}
    return {**made_of, "seconds": seconds, "faults": faults}


# --- memory -------------------------------------------------------------------------------------------------------


def memory(shape: tuple[int, ...], dtype: str, layout: str) -> dict[str, dict[str, float]]:
    """Largest resident memory of a forward and of a backward over that before it, in maps; a process for each."""
    result: dict[str, dict[str, float]] = {}
    for name in ("ours", "adaptive pool", "mean and view"):
        request = json.dumps({"shape": shape, "dtype": dtype, "layout": layout, "name": name})
        said = subprocess.run([sys.executable, __file__, "--child", request], check=True, stdout=subprocess.PIPE)
        result[name] = json.loads(said.stdout)
    return result


def child(request: dict[str, Any]) -> dict[str, float]:
    x, dy = drawn(tuple(request["shape"]), getattr(torch, request["dtype"]), request["layout"])
    module = candidates(x.shape[1], x.ndim - 2, x.dtype, False)[request["name"]]
    module(x[:1].clone().requires_grad_()).backward(dy[:1])  # code that is loaded once is loaded
    x.requires_grad_()
    y, forward = peak(lambda: module(x))
    _, backward = peak(lambda: y.backward(dy))
    return {"forward": forward / x.nbytes, "backward": backward / x.nbytes}


def peak(run: Any) -> tuple[Any, float]:
    def resident(field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else 0

    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is counted from here
    before = resident("VmRSS")
    result = run()
    return result, resident("VmHWM") - before


# --- the report ---------------------------------------------------------------------------------------------------


def best_usual(seconds: dict[str, list[float]]) -> list[float]:
    """Of the usual eager implementations the quickest, by its median."""
    usual = [name for name in EAGER if name in seconds]
    return min((seconds[name] for name in usual), key=lambda times: sorted(times)[len(times) // 2])


def table(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| x | dtype | layout | forward: usual / ours | both: same | quartiles | ours / floor | usual / floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        forward, both = c["seconds"]["forward"], c["seconds"]["both"]
        ahead, _, _ = ratio(best_usual(forward), forward["ours"])
        median, low, high = ratio(best_usual(both), both["ours"])
        floor, usual = (ratio(times, both["floor"])[0] for times in (both["ours"], best_usual(both)))
        name = " x ".join(map(str, c["shape"]))
        lines.append(
            f"| {name} | {c['dtype']} | {c['layout'].replace('_', ' ')} | {ahead:.2f} | {median:.2f} "
            f"| {low:.2f} to {high:.2f} | {floor:.2f} | {usual:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="torch.compile of each too; minutes more")
    parser.add_argument("--memory", action="store_true", help="the memory too")
    parser.add_argument("--out", type=Path, help="folder of layers-torch.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(json.loads(asked.child))))
        return
    cells = []
    for shape in asked.shape or SHAPES:
        for dtype in asked.dtype or DTYPES:
            for layout in asked.layout or LAYOUTS:
                if layout == "channels_last" and len(shape) != 4:
                    continue
                made = cell(shape, dtype, layout, asked.rounds, asked.compiled)
                if asked.memory and made["bytes"] >= 16 << 20:
                    made["memory"] = memory(shape, dtype, layout)
                cells.append(made)
                print(table(cells[-1:]).splitlines()[2], made.get("memory", ""), file=sys.stderr, flush=True)
    print(table(cells))
    if asked.out:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
        text = json.dumps({"machine": machine, "cells": cells}, indent=1)
        asked.out.mkdir(exist_ok=True)
        (asked.out / f"layers-torch{'-compiled' * asked.compiled}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
