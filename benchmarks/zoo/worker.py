"""Examine networks of one framework, one after the other: `python -m benchmarks.zoo.worker torch STEPS NAME NAME ...`.

STEPS are those to leave out, with commas between them, or "-".

Prints a line of JSON for each network. The run in `__main__.py` starts a worker for each package, and another one where
a network takes too long or ends the process.
"""

import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

from benchmarks.zoo import operators
from benchmarks.zoo.other_process import Other


def main() -> None:
    framework, without, *names = sys.argv[1:]
    operators.install()
    networks = import_module(f"benchmarks.zoo.{framework}_networks").NETWORKS
    examine = import_module(f"benchmarks.zoo.{framework}_steps").examine
    other = Other(framework)
    try:
        for name in names:
            print(
                MARK + json.dumps(_record(framework, name, networks[name], examine, other, without.split(","))),
                flush=True,
            )
    finally:
        other.close()


DISTRIBUTIONS = {"smp": "segmentation-models-pytorch", "keras.applications": "keras"}
MARK = "zoo:"  # packages print lines of their own


def _record(
    framework: str, name: str, build: Any, examine: Any, other: Other, without: Sequence[str]
) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        found = examine(name, build, other, without)
    except Exception as error:  # the network cannot be built or run, which its package answers for
        found = {"broken": f"{type(error).__name__}: {error}"[:600]}
    version = _version(name.split(":")[0])
    return {
        "framework": framework,
        "name": name,
        "version": version,
        **found,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
