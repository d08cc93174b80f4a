"""`python -m benchmarks.study`: train what docs/measured/study.jsonl does not hold yet, then write the page.

A run that was interrupted goes on where it stopped: every finished training is a line of that file.
"""

import argparse
import json
from pathlib import Path

import torch

from .networks import KINDS
from .page import write
from .tasks import TASKS
from .times import measure
from .train import run

MEASURED = Path(__file__).parents[2] / "docs" / "measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... of every kind on every task")
    parser.add_argument("--page-only", action="store_true", help="write docs/study.md from what is there")
    parser.add_argument("--times", action="store_true", help="measure the time of a training step again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # small maps: a second thread only waits

    file = MEASURED / "study.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(record["task"], record["kind"], record["seed"]) for record in records}
    # The seeds outermost: whenever it stops, every kind has had the same seeds, give or take one.
    wanted = [(task, kind, seed) for seed in range(arguments.seeds) for task in TASKS for kind in KINDS]
    missing = [] if arguments.page_only else [key for key in wanted if key not in done]
    for i, (task, kind, seed) in enumerate(missing, 1):
        record = run(TASKS[task], kind, seed)
        records.append(record)
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        print(f"{i} of {len(missing)}: {task}, {kind}, seed {seed}: {record['accuracy']:.1f} %", flush=True)

    times = MEASURED / "study-times.json"
    if not arguments.page_only and (arguments.times or not times.exists()):
        times.write_text(json.dumps(measure(), indent=1) + "\n")
    write(records, json.loads(times.read_text()))


if __name__ == "__main__":
    main()
