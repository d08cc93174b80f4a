"""What `import eca_multi.<framework>` takes after the framework itself, in fresh processes that take turns.

Python's garbage collector is off while it is measured: a pass over all of a framework's objects takes 100 ms, and in
whose import it falls is chance. What it takes with the collector is in the second column.

    python benchmarks/import_time.py --out docs/measured
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Our package, what it is imported after, and the Keras backend.
IMPORTS = {
    "eca_multi": ("", ""),
    "eca_multi.torch": ("torch", ""),
    "eca_multi.jax": ("jax", ""),
    "eca_multi.flax.linen": ("flax.linen", ""),
    "eca_multi.flax.nnx": ("flax.nnx", ""),
    "eca_multi.keras, TensorFlow": ("keras", "tensorflow"),
    "eca_multi.keras, JAX": ("keras", "jax"),
    "eca_multi.keras, torch": ("keras", "torch"),
}

CODE = """
import gc, importlib, sys, time
framework, ours, collects = sys.argv[1:]
if framework:
    importlib.import_module(framework)
if collects == "no":
    gc.disable()
start = time.perf_counter()
importlib.import_module(ours)
print("took", time.perf_counter() - start)
"""


def seconds(name: str, collects: str) -> float:
    framework, backend = IMPORTS[name]
    environment = {**os.environ, "KERAS_BACKEND": backend or "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", CODE, framework, name.partition(",")[0], collects]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(said.rpartition("took")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of import-time.json")
    asked = parser.parse_args()
    taken: dict[str, dict[str, list[float]]] = {name: {"no": [], "yes": []} for name in IMPORTS}
    for turn in range(asked.rounds + 1):
        for name, lists in taken.items():
            for collects, found in lists.items():
                took = seconds(name, collects)
                if turn:  # the first one fills the file cache
                    found.append(took)
    table = ["| import | ms | with the collector |", "|---|---|---|"]
    for name, lists in taken.items():
        table.append(f"| `{name}` | {' | '.join(f'{statistics.median(lists[c]) * 1e3:.0f}' for c in lists)} |")
    print("\n".join(table))
    if asked.out:
        asked.out.mkdir(exist_ok=True)
        (asked.out / "import-time.json").write_text(json.dumps({"table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
