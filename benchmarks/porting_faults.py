"""Measure the parity harness on ports: layers as they are shipped, and the faults that people make when they port.

    python benchmarks/porting_faults.py [--layer NAME] [--dtype NAME] [--backend NAME] [--json FILE] [--write]

Runs every right port and every faulty port of benchmarks/porting, one process for each backend of Keras, two at a time.
Prints the tables; --write puts them into docs/measured-parity.md. --json keeps every record; --records makes the tables
of kept records, without a run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.porting.page import put_into, write_section
from benchmarks.porting.record import Record, run_right, run_wrong
from eca_multi.parity.define.dtypes import DTYPES

PAGE = Path(__file__).parents[1] / "docs" / "measured-parity.md"
# Each backend of Keras with what else its process runs; the slowest comes first.
SHARES = {
    "jax": ("torch", "keras-jax", "linen", "nnx", "jax"),
    "tensorflow": ("torch", "keras-tensorflow"),
    "torch": ("torch", "keras-torch"),
}


def run_share(backend: str, chosen: Sequence[str], dtypes: Sequence[str], out: Path) -> None:
    """Run one process's share, and write its records as they come."""
    from benchmarks.porting.all_layers import LAYERS
    from benchmarks.porting.layer import runs_of
    from benchmarks.porting.local import in_process

    layers = [layer for layer in LAYERS if not chosen or layer.name in chosen]
    runners = SHARES[backend]
    faulty = [run for run in runs_of(layers) if run[2] in runners[1:] or (run[2] == "torch" and backend == "torch")]
    total, done, records = len(layers) + len(faulty), 0, []
    with in_process(), out.open("w") as file:
        for task in (*layers, *faulty):
            if isinstance(task, tuple):
                records = run_wrong(*task, dtypes)
                label = f"{task[0].name}: {task[1].name}, {task[2]}"
            else:
                records = run_right(task, runners, dtypes)
                if backend != "torch":  # torch's own right port counts once
                    records = [record for record in records if record.runner != "torch"]
                label = task.name
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
            file.flush()
            done += 1
            print(f"[{backend}] {done} of {total}: {label}", file=sys.stderr, flush=True)


def _start(backend: str, arguments: Sequence[str], out: Path) -> int:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *arguments, "--share", backend, "--out", str(out)]
    return subprocess.run(command, env={**os.environ, **quiet, "KERAS_BACKEND": backend}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layer", action="append", default=[], help="a layer's name; all by default")
    parser.add_argument("--dtype", action="append", choices=list(DTYPES), help="all by default")
    parser.add_argument("--backend", action="append", choices=list(SHARES), help="Keras's, with what runs beside; all")
    parser.add_argument("--json", type=Path, help="a file for the records")
    parser.add_argument("--records", type=Path, nargs="+", help="files of --json; runs nothing")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    parser.add_argument("--share", choices=list(SHARES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtypes = options.dtype or list(DTYPES)
    if options.share:
        run_share(options.share, options.layer, dtypes, options.out)
        return
    if options.records:
        kept = [Record(**record) for path in options.records for record in json.loads(path.read_text())]
        _tell(
            kept,
            "several runs, of which some records may be missing (the rows 'runs' count them),",
            "python benchmarks/porting_faults.py --records",
            options.write,
        )
        return
    start = time.monotonic()
    arguments = [f"--layer={name}" for name in options.layer] + [f"--dtype={name}" for name in options.dtype or ()]
    backends = [name for name in SHARES if name in (options.backend or SHARES)]
    with TemporaryDirectory() as folder:
        outs = {backend: Path(folder) / f"{backend}.jsonl" for backend in backends}
        with ThreadPoolExecutor(2) as pool:
            statuses = list(pool.map(lambda item: _start(item[0], arguments, item[1]), outs.items()))
        lines = [line for out in outs.values() if out.exists() for line in out.read_text().splitlines()]
    records = [Record(**json.loads(line)) for line in lines]
    if options.json:
        options.json.write_text(json.dumps([asdict(record) for record in records], indent=1))
    if any(statuses):
        sys.exit(f"a share ended with status {max(map(abs, statuses))}; its lines above say why")
    command = " ".join(
        ["python benchmarks/porting_faults.py", *arguments, *(f"--backend={n}" for n in options.backend or ())]
    )
    _tell(records, f"{time.monotonic() - start:.0f} s", command, options.write)


def _tell(records: Sequence[Record], total: str, command: str, write: bool) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    section = write_section(records, total, command, machine)
    print(section)
    if write:
        put_into(PAGE, section)


if __name__ == "__main__":
    main()
