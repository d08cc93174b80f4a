"""`make mutants`: put each seeded fault into a copy of the package; the default tests must fail.

A fault in tests/support/seeded_faults/*.toml names a file of the package, a text that occurs in that file exactly once,
the wrong text to put in its place, and the tests that must fail. If none fails, the fault survives: the tests lack
something, or the text is not needed.

    python tests/support/run_seeded_faults.py [--only NAME] [--jobs 1]

The exit status is 0 if every fault was killed, 1 if one survived, and 2 if one could not be tried.

The frameworks are imported once; each fault's tests run in a fork of that process, which has not imported eca_multi.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).with_name("seeded_faults")
PACKAGE = "eca_multi"
COPIED = (PACKAGE, "tests", "docs", "examples", "pyproject.toml", "README.md", "CONTRIBUTING.md")  # what tests read
FRAMEWORKS = ("torch", "keras", "jax", "flax.linen", "flax.nnx")
LIMIT = 300  # seconds for one fault's tests
# A test that fails with one of these shows that the wrong text does not run, not that a test sees a wrong result.
NO_CODE = re.compile(r"^E +(ImportError|ModuleNotFoundError|SyntaxError|IndentationError)\b", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """One wrong edit, and the tests that must see it.

    `tests` are node ids as pytest takes them; `k` restricts them as pytest's -k does.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    k: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a fault. `state` is "killed", "survived" or "broken"; `detail` says why it is broken."""

    fault: Fault
    state: str
    seconds: float = 0.0
    detail: str = field(default="", repr=False)


class BrokenFault(ValueError):
    """A fault that cannot be tried: the file lacks the old text, or the new text is not Python."""


def read_faults(folder: Path = FOLDER) -> list[Fault]:
    """Read all faults, in the order of the files.

    Raises:
        BrokenFault: If two faults have one name, or a table has another key.
    """
    faults = []
    for path in sorted(folder.glob("*.toml")):
        for table in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
            try:
                faults.append(Fault(**{**table, "tests": tuple(table["tests"])}))
            except (KeyError, TypeError) as error:
                name = table.get("name", "a fault without a name")
                raise BrokenFault(f"{path.name}: {name} must have name, file, old, new and tests ({error}).") from error
    names = [fault.name for fault in faults]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BrokenFault(f"Each fault must have a name of its own. Received twice: {', '.join(twice)}.")
    return faults


def faulty_text(fault: Fault, root: Path = ROOT) -> str:
    """Return the content of the fault's file with the wrong text.

    Raises:
        BrokenFault: If the right text does not occur exactly once in that file, or the content is no Python.
    """
    path = root / fault.file
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    if text is None or text.count(fault.old) != 1:
        found = "no such file" if text is None else f"it occurs {text.count(fault.old)} times"
        elsewhere = [p.relative_to(root) for p in sorted((root / PACKAGE).rglob("*.py")) if fault.old in p.read_text()]
        hint = f" It stands in {', '.join(map(str, elsewhere))}." if elsewhere else " It stands nowhere in the package."
        raise BrokenFault(
            f"{fault.name}: the old text must occur exactly once in {fault.file}. Received: {found}.{hint} "
            "Correct the entry in tests/support/seeded_faults."
        )
    wrong = text.replace(fault.old, fault.new)
    try:
        compile(wrong, fault.file, "exec")
    except SyntaxError as error:
        raise BrokenFault(f"{fault.name}: the new text must be Python. Received: {error}.") from error
    return wrong


def missing_tests(fault: Fault, root: Path = ROOT) -> list[str]:
    """Return the node ids whose file or function does not exist."""
    missing = []
    for node in fault.tests:
        path, *names = node.split("::")
        text = (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""
        function = names[-1].partition("[")[0] if names else ""
        if not text or (function and f"def {function}(" not in text):
            missing.append(node)
    return missing


def copy_of(root: Path, folder: Path) -> Path:
    """Copy the files that tests need, with their compiled files, so that Python compiles the faulty file alone."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name)
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)
    return folder


def start_tests(folder: Path, nodes: Sequence[str], k: str) -> int:
    """Fork a process that runs tests of a copy, with the copy first on sys.path; return the process's number."""
    pid = os.fork()
    if pid:
        return pid
    # The child: it leaves by os._exit alone, so that it never returns into the parent's code.
    status = 3
    try:
        os.setsid()  # so that what its tests start can be ended with it
        with (folder / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path.insert(0, str(folder))
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short"]
        status = int(pytest.main([*options, *(["-k", k] if k else []), *nodes]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(pid: int, seconds: float) -> int | None:
    """Return a process's exit status, or None if it took too long; end all processes that it started."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(pid, signal.SIGKILL)


def run_tests(folder: Path, nodes: Sequence[str], k: str = "") -> tuple[int | None, str]:
    """Run tests of a copy; return pytest's exit status and what it printed."""
    status = wait_for(start_tests(folder, nodes, k), LIMIT)
    return status, (folder / "output.txt").read_text(errors="replace")


def try_fault(fault: Fault, root: Path = ROOT) -> Result:
    """Put a fault into a copy of the package, and run its tests there."""
    start = time.monotonic()
    try:
        wrong = faulty_text(fault, root)
    except BrokenFault as error:
        return Result(fault, "broken", detail=str(error))
    with tempfile.TemporaryDirectory(prefix="eca-fault-") as name:
        folder = copy_of(root, Path(name))
        (folder / fault.file).write_text(wrong, encoding="utf-8")
        status, output = run_tests(folder, fault.tests, fault.k)
    seconds = time.monotonic() - start
    if status == 0:
        return Result(fault, "survived", seconds)
    if status == 1 and not NO_CODE.search(output):
        return Result(fault, "killed", seconds)
    why = "its tests took too long" if status is None else f"pytest ended with {status}"
    return Result(fault, "broken", seconds, f"{fault.name}: {why}, and not by a failing test:\n{output[-3000:]}")


def check_baseline(faults: Sequence[Fault], root: Path = ROOT) -> str:
    """Run the faults' tests on the package as it is; return what failed, "" if nothing did."""
    with tempfile.TemporaryDirectory(prefix="eca-fault-") as name:
        folder = copy_of(root, Path(name))
        status, output = run_tests(folder, sorted({node for fault in faults for node in fault.tests}))
    return "" if status == 0 else f"without any fault, pytest ended with {status}:\n{output[-3000:]}"


def tried(faults: Sequence[Fault], jobs: int) -> Iterator[Result]:
    """Try each fault in its own process, `jobs` faults at a time."""
    if jobs == 1:
        yield from map(try_fault, faults)
        return
    from concurrent.futures import ThreadPoolExecutor

    # The threads only wait for their forks. A fork has one thread and needs no lock that another thread holds.
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(try_fault, faults)


def load_frameworks() -> None:
    """Import the frameworks that every fork needs, and nothing of this package."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("pytest", *FRAMEWORKS):
        import_module(name)
    if any(name.partition(".")[0] == PACKAGE for name in sys.modules):
        raise SystemExit(f"{PACKAGE} must not be imported before the fork. Start this file by its path.")


def revision() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "no revision"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="faults whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a fault first")
    options = parser.parse_args()
    faults = [f for f in read_faults() if not options.only or any(part in f.name for part in options.only)]
    if not faults:
        parser.error(f"no fault has such a name: {', '.join(options.only)}")
    load_frameworks()
    if not options.no_baseline:
        print(f"{len(faults)} faults, {revision()}; their tests without a fault first", flush=True)
        wrong = check_baseline(faults)
        if wrong:
            print(wrong)
            return 2
    results = []
    for number, result in enumerate(tried(faults, options.jobs), 1):
        results.append(result)
        print(f"{number:3}/{len(faults)} {result.state:8} {result.seconds:5.1f} s  {result.fault.name}", flush=True)
        if result.state == "broken":
            print(result.detail, flush=True)
    counts = {state: sum(r.state == state for r in results) for state in ("killed", "survived", "broken")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    for result in results:
        if result.state == "survived":
            print(
                f"survived: {result.fault.name} ({result.fault.file}), seen by none of {', '.join(result.fault.tests)}"
            )
    return 1 if counts["survived"] else 2 if counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
