"""Examine networks of one framework, one after the other: `python -m benchmarks.zoo.worker torch NAME NAME ...`.

Prints a line of JSON for each network. The run in `__main__.py` starts a worker for each package, and another one where
a network takes too long or ends the process.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

from benchmarks.zoo import operators
from benchmarks.zoo.other_process import Other


def main() -> None:
    framework, *names = sys.argv[1:]
    operators.install()
    networks = import_module(f"benchmarks.zoo.{framework}_networks").NETWORKS
    examine = import_module(f"benchmarks.zoo.{framework}_steps").examine
    other = Other(framework)
    try:
        for name in names:
            print(MARK + json.dumps(_record(framework, name, networks[name], examine, other)), flush=True)
    finally:
        other.close()


MARK = "zoo:"  # packages print lines of their own


def _record(framework: str, name: str, build: Any, examine: Any, other: Other) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        found = examine(build, other)
    except Exception as error:  # the network cannot be built or run, which its package answers for
        found = {"broken": f"{type(error).__name__}: {error}"[:600]}
    return {"framework": framework, "name": name, **found, "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    main()
