"""A failure in a folder: what it takes to run it again, elsewhere and later, and a short script that does."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from eca_multi._files import write_atomically
from eca_multi._folders import Known, whole_folder

from ._axes import SpecError
from .jobs import Job, Outputs, pack_job, unpack_job
from .judging import Judge, Solution
from .runners import Runner
from .spec import Spec

SCHEMA = 2
BUNDLE = Known(
    "a bundle and nothing else",
    "bundle.json",
    re.compile(r"bundle\.json|repro\.py|(job|results|reference)\.safetensors"),
)
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
    python: str
    reference: str
    env: dict[str, str]
    kind: str
    c: float
    manual: dict[str, float] | None
    line: str
    job: Job


_TYPES: dict[str, type | tuple[type, ...]] = {
    "spec": dict, "runner": str, "adapter": str, "python": str, "reference": str, "env": dict, "kind": str,
    "c": (int, float), "manual": (dict, type(None)), "line": str,
}  # fmt: skip


def write_bundle(
    folder: Path, spec: Spec, runner: Runner, reference: Runner, by: Judge, line: str, job: Job, results: Outputs,
    solution: Solution,
) -> None:  # fmt: skip
    """Write a bundle, whole or not at all, in the place of one of the same name. A folder of anything else stays.

    It holds bundle.json, the job's arrays, the runner's results, the reference with the errors E that are allowed
    (by hand, or those of the analysis or the re-runs), and repro.py.

    Raises:
        OSError: If it cannot be written, or the folder holds what is no bundle's.
    """
    plain, arrays = pack_job(job)
    truth = {name: value for name, (value, _) in solution.items()}
    truth |= {f"{name}@error": by.budget(value, error) for name, (value, error) in solution.items()}
    files = {
        "job.safetensors": _packed(arrays),
        "results.safetensors": _packed({name: tensor.values for name, tensor in results.items()}),
        "reference.safetensors": _packed(truth),
    }
    about = {
        "schema": SCHEMA,
        "spec": {"name": spec.name, "layout": spec.layout, "taps": list(spec.taps)},
        "runner": runner.name,
        "adapter": runner.adapter,
        "python": runner.python,
        "reference": reference.adapter,
        "env": dict(runner.env),
        "kind": by.kind,
        "c": by.c,
        "manual": asdict(spec.budget) if spec.budget else None,
        "line": line,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "job": plain,
    }
    files["repro.py"] = REPRO.format(line=line.replace('"', "'").replace("\\", "/")).encode()
    files["bundle.json"] = (json.dumps(about, indent=1) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, BUNDLE) as new:
        new.mkdir()
        for name, data in files.items():
            write_atomically(new / name, data)


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises:
        SpecError: If it is no complete bundle, or a file of it has changed.
    """
    path = Path(folder)
    try:
        about = json.loads((path / "bundle.json").read_text())
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, expected {SCHEMA}")
        for name, digest in about["sha256"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} has changed since it was written")
        for name, kind in _TYPES.items():
            if not isinstance(about[name], kind):
                raise TypeError(f"{name} is {about[name]!r}")
        if lacking := {"name", "layout", "taps"} - set(about["spec"]):
            raise KeyError(f"spec.{min(lacking)}")
        job = unpack_job(about["job"], load_file(path / "job.safetensors"))
        return Bundle(**{name: about[name] for name in _TYPES}, job=job)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        raise SpecError(
            f"{folder} must be a complete bundle. Received: {type(error).__name__}: {error}. Write it again with "
            "`eca-multi parity run --bundles FOLDER`."
        ) from error


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    data: bytes = save({name: np.require(array, requirements="C") for name, array in arrays.items()})
    return data
