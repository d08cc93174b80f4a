"""How much the speed of the torch layer varies from process to process, and the page faults beside it.

Fresh memory costs a page fault for each 4 KiB, and whether a call gets fresh memory depends on what the process freed
before: glibc moves its thresholds. So each feature map is measured in several processes, by layers_torch.py. The table
shows the usual code's time over ours, forward and backward: the median of the processes and the least of them; and the
page faults per call.

    python benchmarks/processes.py --out docs/measured
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from _timing import ratio
from layers_torch import DTYPES, LAYOUTS, best_usual, cell

SHAPES = ((32, 2048, 7, 7), (8, 512, 28, 28), (32, 256, 56, 56))
KIND = "both"


def in_a_process(shape: tuple[int, ...], dtype: str, layout: str, rounds: int) -> dict[str, Any]:
    request = json.dumps([shape, dtype, layout, rounds])
    said = subprocess.run([sys.executable, __file__, "--child", request], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def child(shape: list[int], dtype: str, layout: str, rounds: int) -> dict[str, Any]:
    made = cell(tuple(shape), dtype, layout, rounds, compiled=False)
    seconds, faults = made["seconds"][KIND], made["faults"][KIND]
    usual = best_usual(seconds)
    name = next(name for name, times in seconds.items() if times is usual)
    counts = {"ours": median(faults["ours"]), "usual": median(faults[name])}
    return {"ahead": ratio(usual, seconds["ours"])[0], "faults": counts}


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| x | dtype | layout | usual / ours | least | page faults, ours | usual |", "|" + "---|" * 7]
    for c in cells:
        ahead = [run["ahead"] for run in c["processes"]]
        counts = [between(run["faults"][name] for run in c["processes"]) for name in ("ours", "usual")]
        shape, layout = " x ".join(map(str, c["shape"])), c["layout"].replace("_", " ")
        texts = [shape, c["dtype"], layout, f"{median(ahead):.2f}", f"{min(ahead):.2f}", *counts]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def between(counts: Any) -> str:
    low, *_, high = sorted([*counts] * 2)
    return f"{low:.0f} to {high:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--shape", action="append", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of processes.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(*json.loads(asked.child))))
        return
    cells = []
    for shape in asked.shape or SHAPES:
        for dtype in asked.dtype or DTYPES:
            for layout in asked.layout or LAYOUTS:
                runs = [in_a_process(shape, dtype, layout, asked.rounds) for _ in range(asked.processes)]
                cells.append({"shape": shape, "dtype": dtype, "layout": layout, "processes": runs})
                print(table(cells[-1:]).splitlines()[2], flush=True)
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "processes.json").write_text(json.dumps({"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
