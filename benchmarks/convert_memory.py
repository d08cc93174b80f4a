"""How long `convert` takes on the largest network and how much memory, each conversion in a process of its own.

    python benchmarks/convert_memory.py            # the table, as Markdown
    python benchmarks/convert_memory.py --arch eca_resnet18 --pairs torch-canonical keras-torch

The memory is the largest resident set during the conversion, mapped pages of the source included, over the resident
set before it, when everything was imported; Linux tells both. Each source was just written, so it is in the page cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from eca_multi.checkpoints import convert, save_file
from eca_multi.checkpoints.detect import detect
from eca_multi.checkpoints.read import MODULES
from eca_multi.networks import find, tensors

SUFFIXES = {
    "original": ".pth.tar",
    "torch": ".pth",
    "canonical": ".safetensors",
    "keras": ".keras",
    "linen": ".msgpack",
    "nnx": ".msgpack",
}
PAIRS = (
    "canonical-canonical", "original-canonical", "torch-canonical", "canonical-torch", "torch-keras", "canonical-keras",
    "keras-torch", "torch-linen", "torch-nnx", "linen-torch", "nnx-torch",
)  # fmt: skip


def child(source: str, target: str, to: str) -> None:
    """Convert, and print what it took."""
    if to == "original":
        write_original(source, target)
        return
    for kind in (detect(source), to):
        if kind in MODULES:
            import_module(MODULES[kind])
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is counted from here
    before = resident("VmRSS")
    times: dict[tuple[str, bool], float] = {}
    start = now()
    convert(source, target, to=to, progress=lambda step, done, total: times.update({(step, bool(done)): now()}))
    seconds = {"seconds": now() - start, "reading": times["read", True] - times["read", False]}
    print(json.dumps({**seconds, "bytes": resident("VmHWM") - before}))


def now() -> float:
    return time.perf_counter()


def write_original(source: str, target: str) -> None:
    """Write a file as torch before 1.6 did, in which the original's were released: it cannot be mapped."""
    import torch
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(source)}, target, _use_new_zipfile_serialization=False)


def resident(name: str) -> int:
    """The resident set in bytes: now (VmRSS), or its largest (VmHWM). ru_maxrss would count the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measure(source: Path, target: Path, to: str) -> dict[str, float]:
    run = [sys.executable, __file__, "--child", str(source), str(target), to]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1] if done.stdout else "{}")


def table(arch: str, pairs: list[str]) -> None:
    rng = np.random.default_rng(0)
    listed = tensors(find(arch))
    weights = {name: rng.random(tensor.shape, np.float32) + 0.5 for name, tensor in listed.items()}
    print(f"| from | to | file, MiB | seconds | of it reading | memory, MiB | memory / file |\n{'|---' * 7}|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {"canonical": folder / "canonical.safetensors"}
        save_file(weights, sources["canonical"])
        del weights
        for pair in pairs:
            origin, to = pair.split("-")
            if origin not in sources:
                sources[origin] = folder / f"source-{origin}{SUFFIXES[origin]}"
                measure(sources["canonical"], sources[origin], origin)
            size = os.path.getsize(sources[origin])
            target = folder / f"target{SUFFIXES[to]}"
            took = measure(sources[origin], target, to)
            target.unlink()
            cells = (
                origin, to, f"{size / 2**20:.0f}", f"{took['seconds']:.1f}", f"{took['reading']:.1f}",
                f"{took['bytes'] / 2**20:.0f}", f"{took['bytes'] / size:.2f}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--arch", default="ecaresnet269d")
        parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
        arguments = parser.parse_args()
        table(arguments.arch, arguments.pairs)
