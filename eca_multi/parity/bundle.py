"""A failure in a folder: what it takes to run it again, elsewhere and later, and a short script that does."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from eca_multi._files import write_atomically

from ._axes import SpecError
from .jobs import Job, Outputs, pack_job, unpack_job
from .judging import Solution
from .runners import Runner
from .spec import Spec

SCHEMA = 1
REPRO = '''"""{line}"""

import json, os
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file

here = Path(__file__).parent
about = json.loads((here / "bundle.json").read_text())
os.environ.update(about["env"])  # before the framework is imported
from eca_multi.parity.worker import make_engine, unpack_job

job = unpack_job(about["job"], load_file(here / "job.safetensors"))
results = make_engine("runner", about["adapter"]).evaluate(job)
truth = load_file(here / "reference.safetensors")
for name in [n for n in results if n in truth]:
    error = np.abs(results[name].values - truth[name])
    print(name, "error", error.max(), "x the budget", (error / (about["c"] * truth[name + "@error"])).max())
'''


@dataclass(frozen=True)
class Bundle:
    """A job, who failed it, and by what it was judged."""

    spec: dict[str, Any]
    runner: str
    adapter: str
    reference: str
    env: dict[str, str]
    kind: str
    c: float
    manual: dict[str, float] | None
    line: str
    job: Job


def write_bundle(
    folder: Path, spec: Spec, runner: Runner, reference: Runner, kind: str, c: float, line: str, job: Job,
    results: Outputs, solution: Solution,
) -> None:  # fmt: skip
    """Write a bundle: bundle.json, the job's arrays, the runner's results, the reference with its errors, repro.py."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, arrays = pack_job(job)
    about = {
        "schema": SCHEMA,
        "spec": {"name": spec.name, "layout": spec.layout, "taps": list(spec.taps)},
        "runner": runner.name,
        "adapter": runner.adapter,
        "reference": reference.adapter,
        "env": dict(runner.env),
        "kind": kind,
        "c": c,
        "manual": asdict(spec.budget) if spec.budget else None,
        "line": line,
        "job": plain,
    }
    truth = {n: v for n, (v, _) in solution.items()} | {f"{n}@error": e for n, (_, e) in solution.items()}
    for name, tensors in (
        ("job", arrays),
        ("results", {n: t.values for n, t in results.items()}),
        ("reference", truth),
    ):
        write_atomically(folder / f"{name}.safetensors", save({n: np.ascontiguousarray(a) for n, a in tensors.items()}))
    write_atomically(folder / "repro.py", REPRO.format(line=line.replace('"', "'")).encode())
    write_atomically(
        folder / "bundle.json", (json.dumps(about, indent=1) + "\n").encode()
    )  # last: it says all is there


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises:
        SpecError: If it is no complete bundle.
    """
    path = Path(folder)
    try:
        about = json.loads((path / "bundle.json").read_text())
        if about["schema"] != SCHEMA:
            raise SpecError(f"{folder} must be a bundle of schema {SCHEMA}. Received: {about['schema']}.")
        job = unpack_job(about["job"], load_file(path / "job.safetensors"))
        names = ("spec", "runner", "adapter", "reference", "env", "kind", "c", "manual", "line")
        return Bundle(**{name: about[name] for name in names}, job=job)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise SpecError(
            f"{folder} must be a complete bundle. Received: {type(error).__name__}: {error}. Write it again with "
            "`eca-multi parity run --bundles FOLDER`."
        ) from error
