"""The examination of a machine: whether it has what a parity run needs."""

import platform
import shutil
import tempfile
import time
from dataclasses import dataclass

from .define.runners import has_compiler
from .define.spec import Spec
from .run import fingerprints

NEEDED = 2**30  # bytes for the files of a run


@dataclass(frozen=True)
class Finding:
    """One fact about the machine. `state` is "ok", "missing" (runs leave a part out) or "fault"."""

    state: str
    what: str
    detail: str


def examine(spec: "Spec | str" = "eca", *, timeout: float = 60.0) -> list[Finding]:
    """Check interpreter, disk and compiler, and start every runner's worker once."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    findings = [
        Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        Finding(
            "ok" if free > NEEDED else "fault",
            "temporary folder",
            f"{tempfile.gettempdir()}, {free / 2**30:.1f} GiB free" + ("" if free > NEEDED else "; a run needs 1 GiB"),
        ),
        Finding("ok", "C++ compiler", "found, for torch.compile")
        if has_compiler()
        else Finding("missing", "C++ compiler", "none found; install g++ or set CXX for torch.compile"),
    ]
    start = time.monotonic()
    states = {"ran": "ok", "unavailable": "missing"}
    for state in fingerprints(spec, timeout=timeout):
        versions = ", ".join(f"{name} {number}" for name, number in state.versions.items())
        findings.append(Finding(states.get(state.state, "fault"), state.name, state.detail or versions))
    findings.append(Finding("ok", "workers", f"started and ended in {time.monotonic() - start:.0f} s"))
    return findings
