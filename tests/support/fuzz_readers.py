"""A seeded fuzzer of everything that reads a file: checkpoints of every format, configs, plans, reports, bundles.

    python tests/support/fuzz_readers.py --inputs 10000 --seed 0    # a table, and each finding; exit status 1 if any
    python tests/support/fuzz_readers.py --format keras-h5 --index 4711 --seed 0 --keep broken  # one input again, kept

Each input is a file that was right, changed in a few places that are chosen by its format (tokens of a pickle, a value
in JSON, lengths, headers, the members of an archive with their checksums made right again) or anywhere. A reader must
end in a result or a documented error, within 5 seconds of processor time and a bound of memory. The inputs are read in
a process of their own, under a limit of its address space; one that dies or hangs is a finding, and the next process
goes on behind it.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fuzz_changes import change, change_folder
from tests.support.fuzz_seeds import FORMS, add_tiny, make_seeds

SECONDS = 5.0  # of processor time: machines of CI are shared
PATIENCE = 6  # so many times as long by the clock, for a reader that waits
ADDRESS_SPACE = 4 << 30  # bytes beyond what the process has when it starts to read
# ValueErrors that are documented beside CheckpointError and SpecError, and are about the content.
DOCUMENTED = re.compile(
    r"weights (do not fit|must be)|arch must be|plan must (be|have schema)|the checkpoint must hold each tensor once|"
    r".* must be a report of run --json"
)


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for the fault of a file."""


# --- one input ---
@dataclass
class Outcome:
    """What became of an input. `fault` says what is wrong with that; "" where nothing is."""

    index: int
    form: str
    error: str = ""
    fault: str = ""
    seconds: float = 0.0
    memory: int = 0
    size: int = 0


def choose(seed: int, index: int, forms: list[str]) -> tuple[str, random.Random]:
    rng = random.Random(f"{seed} {index}")
    return rng.choices(forms, [FORMS[form].share for form in forms])[0], rng


def build_input(seeds: Path, folder: Path, form: str, rng: random.Random) -> Path:
    """Write one input below a folder; a full network is taken less often, for it is a hundred times as long."""
    known = sorted((seeds / form).iterdir())
    small = [one for one in known if not one.name.startswith("full")]
    one = rng.choice(known if rng.random() < 0.15 else small)
    target = folder / one.name
    if one.is_dir():
        shutil.copytree(one, target)
        change_folder(target, rng)
    else:
        other = rng.choice(small)
        changed = change(one.read_bytes(), FORMS[form].kind, rng, other.read_bytes() if other.is_file() else b"")
        target.write_bytes(changed)
    return target


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooSlow in what takes longer."""

    def late(*_: object) -> None:
        raise TooSlow("too slow")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds))
    previous = [signal.signal(sign, late) for _, sign, _ in timers]
    try:
        for timer, _, limit in timers:
            signal.setitimer(timer, limit)
        yield
    finally:
        for (timer, sign, _), old in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(sign, old)


def try_reader(read: Callable[[Path], object], path: Path, bound: tuple[int, int]) -> Outcome:
    """Read a file and judge how that ends."""
    outcome = Outcome(0, "", size=size_of(path))

    before = reset_peak()
    start = time.process_time()
    try:
        with limited(SECONDS):
            read(path)
    except TooSlow:
        outcome.fault = "too slow"
    except BaseException as error:
        outcome.error = type(error).__name__
        outcome.fault = fault_of(error)
    outcome.seconds = time.process_time() - start
    outcome.memory = max(resident("VmHWM") - before, 0)
    if not outcome.fault and outcome.seconds > SECONDS:
        outcome.fault = "too slow"
    if not outcome.fault and outcome.memory > bound[0] * outcome.size + bound[1]:
        outcome.fault = f"{outcome.memory} bytes of memory"
    return outcome


def fault_of(error: BaseException) -> str:
    from eca_multi.checkpoints import CheckpointError
    from eca_multi.parity import SpecError

    if isinstance(error.__cause__, MemoryError):
        return "MemoryError behind the error"
    if isinstance(error, CheckpointError | SpecError | OSError):
        return "" if str(error) else "an error without a text"
    if isinstance(error, ValueError | TypeError) and DOCUMENTED.match(str(error)):
        return ""
    return f"{type(error).__name__}: {str(error)[:200]}"


def size_of(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def run_one(seeds: Path, seed: int, index: int, forms: list[str], folder: Path) -> Outcome:
    form, rng = choose(seed, index, forms)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = build_input(seeds, Path(place), form, rng)
        outcome = try_reader(rng.choice(FORMS[form].readers), path, FORMS[form].bound)
    outcome.index, outcome.form = index, form
    return outcome


# --- many inputs ---


@dataclass
class Summary:
    """What became of many inputs of one format."""

    inputs: int = 0
    read: int = 0
    errors: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    memory: int = 0
    total: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.inputs += 1
        self.read += not outcome.error and not outcome.fault
        if outcome.error:
            self.errors[outcome.error] += 1
        self.seconds = max(self.seconds, outcome.seconds)
        self.memory = max(self.memory, outcome.memory)
        self.total += outcome.seconds


def summarise(outcomes: list[Outcome]) -> str:
    rows = ["| format | inputs | read | errors | slowest, s | most memory, MiB |", "|---|---|---|---|---|---|"]
    forms: dict[str, Summary] = {}
    for outcome in outcomes:
        forms.setdefault(outcome.form, Summary()).add(outcome)
    for form in FORMS:
        if form in forms:
            s = forms[form]
            errors = ", ".join(f"{name} {count}" for name, count in s.errors.most_common())
            rows.append(f"| {form} | {s.inputs} | {s.read} | {errors} | {s.seconds:.2f} | {s.memory / 2**20:.0f} |")
    return "\n".join(rows)


def child(seeds: str, seed: str, first: str, last: str, forms: str) -> None:
    """Read inputs, and say of each on a line of its own what became of it."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    warnings.simplefilter("ignore")
    add_tiny()
    chosen = forms.split(",")
    for form in chosen:  # a first time of each: imports are no reader's time or memory
        for one in sorted(Path(seeds, form).iterdir()):
            for read in FORMS[form].readers:
                with suppress(ValueError):  # of few tensors, which are no network
                    read(one)
    limit = resident("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        for index in range(int(first), int(last)):
            print(json.dumps({"at": index}), flush=True)
            outcome = run_one(Path(seeds), int(seed), index, chosen, Path(folder))
            print(json.dumps(vars(outcome)), flush=True)
            if outcome.fault == "too slow":  # what was broken off may hold a lock for ever
                return


def fuzz(inputs: int, seed: int, forms: list[str], seeds: Path, tell: Callable[[str], None]) -> list[Outcome]:
    """Read so many inputs in processes of their own; one that dies or says nothing for long is begun again."""
    outcomes: list[Outcome] = []
    first = 0
    while first < inputs:
        command = [sys.executable, __file__, "--child", str(seeds), str(seed), str(first), str(inputs), ",".join(forms)]
        at = first
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            watch = Watch(process)
            for line in process.stdout:
                watch.alive()
                if not line.startswith("{"):
                    continue
                said = json.loads(line)
                if "at" in said:
                    at = said["at"]
                else:
                    outcomes.append(Outcome(**said))
                    first = at + 1
                    if outcomes[-1].fault:
                        tell(f"FINDING {outcomes[-1]}")
            words = process.stderr.read()
            watch.end()
        if first < inputs and not (outcomes and outcomes[-1].fault == "too slow" and outcomes[-1].index == first - 1):
            if at == first - 1 and not outcomes:
                raise SystemExit(f"the process did not begin: {words}")
            fault = "it hung" if watch.ended else f"the process died with {process.returncode}: {words[-600:]}"
            outcomes.append(Outcome(at, choose(seed, at, forms)[0], "", fault))
            tell(f"FINDING {outcomes[-1]}")
            first = at + 1
    return outcomes


class Watch:
    """Ends a process that says nothing for long: code that no signal interrupts."""

    PATIENCE = 90.0  # importing the frameworks takes a third of it

    def __init__(self, process: subprocess.Popen) -> None:
        import threading

        self.process, self.last, self.ended, self.done = process, time.monotonic(), False, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        self.last = time.monotonic()

    def end(self) -> None:
        self.done.set()

    def _watch(self) -> None:
        while not self.done.wait(1.0):
            if time.monotonic() - self.last > self.PATIENCE:
                self.ended = True
                self.process.kill()
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--index", type=int, help="Only this input, in this process, with the whole traceback.")
    parser.add_argument("--keep", type=Path, help="Where to keep that input.")
    parser.add_argument("--seeds", type=Path, help="A folder of seeds that is kept.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seeds = arguments.seeds or Path(name)
        seeds.mkdir(exist_ok=True)
        if not any(seeds.iterdir()):
            subprocess.run(
                [sys.executable, __file__, "--seeds-only", str(seeds)], check=True, stderr=subprocess.DEVNULL
            )
        if arguments.index is not None:
            form, rng = choose(arguments.seed, arguments.index, arguments.format)
            keep = arguments.keep or Path(name, "kept")
            keep.mkdir(exist_ok=True)
            add_tiny()
            path = build_input(seeds, keep, form, rng)
            print(form, path, size_of(path))
            print(rng.choice(FORMS[form].readers)(path))
            return
        start = time.monotonic()
        outcomes = fuzz(arguments.inputs, arguments.seed, arguments.format, seeds, lambda text: print(text, flush=True))
        print(summarise(outcomes))
        faults = [outcome for outcome in outcomes if outcome.fault]
        print(f"{len(outcomes)} inputs, {len(faults)} findings, {time.monotonic() - start:.0f} s")
        raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    elif sys.argv[1:2] == ["--seeds-only"]:
        make_seeds(Path(sys.argv[2]))
    else:
        main()
