"""A bundle: the folder with all that is needed to run a failure again, elsewhere and later, and a script that does."""

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi._files.file import write_atomically
from eca_multi._files.folder import Known, whole_folder
from eca_multi._parsing import parse_json
from eca_multi.checkpoints.safetensors import pack_safetensors, unpack_safetensors
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.job import Job, pack_job, unpack_job
from eca_multi.parity.define.runners import Runner
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.judge.verdicts import Judge

from .rerun import Rerun

SCHEMA = 3
ERROR = "@error"  # after the name of a tensor, that of its largest error
REPLAY = ["eca-multi", "parity", "replay"]
TRUST = "--trust"
FILES = ("bundle.json", "job.safetensors", "results.safetensors", "reference.safetensors", "repro.py")
SUMS = "SHA256SUMS"  # of all files, as `sha256sum -c` reads it: against damage, and not against forgers, who renew it
BUNDLE = Known("a bundle and nothing else", "bundle.json", re.compile("|".join(map(re.escape, (*FILES, SUMS)))))
REPRO = '''"""Run the job of this bundle in one process; --trust runs an adapter that is not eca_multi's own."""

import sys
from pathlib import Path
from eca_multi.parity.explain.repro import main

main([str(Path(__file__).parent), *sys.argv[1:]])
'''


@dataclass(frozen=True)
class Bundle:
    """A job, the runner that failed it, and the reference and budget that judged it."""

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
    truth: dict[str, np.ndarray]  # the reference, with the error of y as y@error


_TYPES: dict[str, type | tuple[type, ...]] = {
    "spec": dict, "runner": str, "adapter": str, "python": str, "reference": str, "env": dict, "kind": str,
    "c": (int, float), "manual": (dict, type(None)), "line": str,
}  # fmt: skip
_SPEC_TYPES = {"name": str, "layout": str, "taps": list}
_JOB_TYPES = {
    "case": str, "dtype": str, "param_dtype": str, "config": dict, "axes": dict, "weight_axes": dict, "outputs": list,
    "taps": list, "compiled": bool, "twice": bool, "gradients": bool, "training": (dict, type(None)),
}  # fmt: skip


def write_bundle(
    folder: Path, spec: Spec, runner: Runner, reference: Runner, judge: Judge, line: str, evidence: Rerun
) -> None:
    """Write a bundle, whole or not at all, in the place of a bundle of the same name. Any other folder stays.

    A bundle holds bundle.json, the job's arrays, the runner's results, the reference with the errors E that are allowed
    (by hand, or those of the analysis or the re-runs), repro.py, and the sums of all these. Raises OSError if the
    bundle cannot be written, or its folder holds anything that no bundle has.
    """
    plain, arrays = pack_job(evidence.job)
    truth: dict[str, np.ndarray] = {}
    for quantity, (value, error) in evidence.solution.items():
        truth |= {quantity.label: value, f"{quantity.label}{ERROR}": judge.budget(value, error)}
    results = {quantity.label: tensor.values for quantity, tensor in evidence.results.items()}
    tensors = {"job": arrays, "results": results, "reference": truth}
    files = {f"{name}.safetensors": b"".join(pack_safetensors(content)) for name, content in tensors.items()}
    about = {
        "schema": SCHEMA,
        "spec": {"name": spec.name, "layout": spec.layout, "taps": list(spec.taps)},
        "runner": runner.name,
        "adapter": runner.adapter,
        "python": runner.python,
        "reference": reference.adapter,
        "env": dict(runner.env),
        "kind": judge.kind,
        "c": judge.c,
        "manual": asdict(spec.budget) if spec.budget else None,
        "line": line,
        "job": plain,
    }
    files["repro.py"] = REPRO.encode()
    files["bundle.json"] = (json.dumps(about, indent=1) + "\n").encode()
    files[SUMS] = _sums(files).encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder, BUNDLE) as new:
        new.mkdir()
        for name, data in files.items():
            write_atomically(new / name, data)


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle. Nothing that it names is imported or run; `trust.check_trust` says what may be.

    Raises SpecError if the folder is no complete bundle, or one of its files has changed.
    """
    path = Path(folder)
    try:
        files = {name: _regular(path / name) for name in FILES}
        about = parse_json(files["bundle.json"])
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']!r}, expected {SCHEMA}")
        written = _regular(path / SUMS).decode().splitlines()
        for line in _sums(files).splitlines():
            if line not in written:
                raise ValueError(f"{line.partition('  ')[2]} has changed since it was written")
        _check_fields(about)
        job = unpack_job(about["job"], unpack_safetensors(files["job.safetensors"], "job.safetensors"))
        return Bundle(
            **{name: about[name] for name in _TYPES},
            job=job,
            truth=unpack_safetensors(files["reference.safetensors"], "reference.safetensors"),
        )
    except Exception as error:  # a stranger's file may make the parsers raise anything
        raise SpecError(
            f"{folder} must be a complete bundle. Received: {type(error).__name__}: {error}. Write it again with "
            "`eca-multi parity run --bundles FOLDER`."
        ) from error


def replay_command(folder: str, *, trust: bool = False) -> str:
    """Return the command that runs a bundle again, for a shell; with `trust` for code that is not this package's."""
    return shlex.join([*REPLAY, f"./{folder}" if folder.startswith("-") else folder, *([TRUST] if trust else [])])


def is_replay_command(command: Any) -> bool:
    """Return whether a text is "" or such a command: a report may come from anybody, and shows it to be copied."""
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:  # a quote that is not closed
        words = []
    return command == "" or (words[:-1] == REPLAY and words[-1][:1] != "-" and command == shlex.join(words))


def without_trust(command: Any) -> Any:
    """Return a command without its --trust: a report that is read from a file must not ask for trust."""
    return command.removesuffix(f" {TRUST}") if isinstance(command, str) else command


def _check_fields(about: Mapping[str, Any]) -> None:
    """Check the types and values of bundle.json, in which a forger may write anything."""
    _check_types(about, _TYPES, "")
    _check_types(about["spec"], _SPEC_TYPES, "spec.")
    _check_types(about["job"], _JOB_TYPES, "job.")
    _check_names(about)
    for name, kinds in (("dtype", {*DTYPES}), ("param_dtype", {"", *DTYPES})):
        if about["job"][name] not in kinds:
            raise ValueError(f"job.{name} is {about['job'][name]!r:.200}")
    manual = about["manual"] or {}
    if manual and set(manual) != {"rtol", "atol"}:
        raise ValueError(f"manual is {manual!r:.200}")
    for number in (about["c"], *manual.values()):
        if not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise ValueError(f"c or manual has {number!r:.200}")


def _check_names(about: Mapping[str, Any]) -> None:
    """Check texts; those that go to a command line or an environment must fit there."""
    job = about["job"]
    lists = [about["spec"]["taps"], job["outputs"], job["taps"], *job["axes"].values(), *job["weight_axes"].values()]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise TypeError(f"names are {lists!r:.200}")
    for text in (about["adapter"], about["reference"], about["python"], *about["env"], *about["env"].values()):
        if not isinstance(text, str) or "\0" in text or text != text.encode(errors="ignore").decode():
            raise ValueError(f"{text!r:.200} is no name of a file, a class or a setting")
    if not all(name and "=" not in name for name in about["env"]):
        raise ValueError(f"env is {about['env']!r:.200}")


def _check_types(content: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    for name, kind in types.items():
        if not isinstance(content[name], kind):
            raise TypeError(f"{where}{name} is {content[name]!r:.200}")


def _sums(files: Mapping[str, bytes]) -> str:
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in FILES)


def _regular(path: Path) -> bytes:
    """Read a file; reading a pipe or a device would never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is no file")
    return path.read_bytes()
