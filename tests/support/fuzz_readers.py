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
import io
import json
import os
import pickletools
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
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SECONDS = 5.0  # of processor time: machines of CI are shared
PATIENCE = 6  # so many times as long by the clock, for a reader that waits
PLAIN, PACKED = (8, 150 << 20), (100, 300 << 20)  # memory: so many times the file and so much more
ADDRESS_SPACE = 4 << 30  # bytes beyond what the process has when it starts to read
TINY = "tiny_basic"
# ValueErrors that are documented beside CheckpointError and SpecError, and are about the content.
DOCUMENTED = re.compile(
    r"weights (do not fit|must be)|arch must be|plan must be|the checkpoint must hold each tensor once|"
    r".* must be a report of run --json"
)


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for the fault of a file."""


# --- seeds ---------------------------------------------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Write a right file of each format: small ones, and full networks of those that identify them."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import torch

    import eca_multi.keras.networks as keras_networks
    from eca_multi.checkpoints import save_file, take
    from eca_multi.flax.linen import checkpoints as linen
    from eca_multi.flax.nnx import checkpoints as nnx
    from eca_multi.keras import checkpoints as keras
    from eca_multi.surgery.entry import ECAEntry, Skipped
    from eca_multi.surgery.plan import ECAPlan
    from eca_multi.torch.checkpoints import write_checkpoint
    from tests.support.checkpoint_factory import random_weights
    from tests.support.report_fixture import make

    add_tiny()
    setattr(keras_networks, TINY, keras_networks._builder(TINY))
    tiny = random_weights(TINY, num_classes=2)
    full = {
        name: array.astype(np.float16)
        for name, array in random_weights("eca_mobilenet_v2", num_classes=2, features_only=True).items()
    }

    def path(form: str, name: str) -> Path:
        (folder / form).mkdir(exist_ok=True)
        return folder / form / name

    few = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.weight": torch.ones(4), "n": torch.zeros(2, dtype=torch.int64)}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    trained = {"state_dict": few, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(70.25)}
    for form, zipped in (("torch-zip", True), ("torch-legacy", False)):
        save = {"_use_new_zipfile_serialization": zipped}
        torch.save({**trained, "optimizer": optimizer}, path(form, "few.pth"), **save)
        for name, weights in (("tiny", tiny), ("full", full)):
            state = {f"module.{key}": torch.from_numpy(array) for key, array in weights.items()}
            torch.save({"state_dict": state, "epoch": 3}, path(form, f"{name}.pth"), **save)
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float16)}, path("canonical", "few.safetensors"))
    for name, weights in (("tiny", tiny), ("full", full)):
        checkpoint = take(weights)
        write_checkpoint(checkpoint, path("safetensors", f"{name}.safetensors"), {"epoch": "3"})
        linen.write_checkpoint(checkpoint, path("linen", f"{name}.msgpack"), {"epoch": "3"})
        nnx.write_checkpoint(checkpoint, path("nnx", f"{name}.msgpack"), {"epoch": "3"})
    checkpoint = take(tiny)
    keras.write_checkpoint(checkpoint, path("keras", "tiny.keras"), {"epoch": "3"})
    keras.write_checkpoint(checkpoint, path("keras-h5", "tiny.weights.h5"), {"epoch": "3"})
    linen.write_checkpoint(checkpoint, path("orbax", "tiny"), {"epoch": "3"})
    pretrained = path("config", "tiny")
    pretrained.mkdir()
    save_file(tiny, pretrained / "model.safetensors")
    config = {"architecture": TINY, "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.5] * 3}}
    (pretrained / "config.json").write_text(json.dumps(config))
    entry = ECAEntry("layer1.0.bn2", channels=64, kernel_size=3, parameters=3, aliases=("a",), notes=("b",), calls=1)
    ECAPlan("torch", "Net", entries=(entry,), skipped=(Skipped("x", "y"),), notes=("z",)).save(path("plan", "a.json"))
    report = make()
    report["results"] = report["results"][:: max(len(report["results"]) // 30, 1)]
    path("report", "a.json").write_text(json.dumps(report))
    write_bundle_seed(path("bundle", "a"))


def write_bundle_seed(folder: Path) -> None:
    from eca_multi.parity.define.job import Job
    from eca_multi.parity.define.tensor import Kind, Quantity, Tensor
    from eca_multi.parity.explain.bundle import write_bundle
    from eca_multi.parity.explain.rerun import Rerun

    runner = SimpleNamespace(name="numpy", adapter="mine.py:Scale", python="", env={"A": "1"})
    spec = SimpleNamespace(name="Scale", layout="N C", taps=("gate",), budget=None)
    by = SimpleNamespace(kind="stochastic", c=4.0, budget=lambda value, error: error)
    x, y = np.ones((2, 3), np.float32), Quantity(Kind.OUTPUT, "y")
    job = Job("a", "float32", {"C": 3}, {"x": ("N", "C"), "y": ("N", "C")}, ("y",), inputs={"x": x}, weights={"w": x})
    rerun = Rerun(job, {y: Tensor(x, "float32")}, {y: (x, x)})
    write_bundle(folder, spec, runner, runner, by, "y exceeds", rerun)


def add_tiny() -> None:
    """Let a network of 20 kB be found, so that what comes behind the identification is reached by small files."""
    from eca_multi.networks import NETWORKS, ResNet

    NETWORKS[TINY] = ResNet(TINY, (1, 2), "basic", widths=((8, 64), (8, 24), (8, 24)), kernels=(3, 5))


# --- readers -------------------------------------------------------------------------------------------------------


def read_generic(path: Path) -> object:
    from eca_multi.checkpoints import read_checkpoint

    return read_checkpoint(path)


def read_own(module: str) -> Callable[[Path], object]:
    """The reader of one framework, whatever the file looks like."""

    def read(path: Path) -> object:
        from importlib import import_module

        return import_module(f"eca_multi.{module}.checkpoints").read_checkpoint(path)

    return read


def read_canonical(path: Path) -> object:
    from eca_multi.checkpoints import load_file

    return load_file(path)


def read_compared(path: Path) -> object:
    from eca_multi.parity import compare

    return compare(path, path)


def read_config(path: Path) -> object:
    from eca_multi.checkpoints import Hub, find_pretrained

    return find_pretrained(path, Hub())


def read_plan(path: Path) -> object:
    from eca_multi.surgery.plan import ECAPlan

    return str(ECAPlan.load(path))


def read_report(path: Path) -> object:
    from rich.console import Console

    from eca_multi.parity.report.html import to_html
    from eca_multi.parity.report.json import read_report
    from eca_multi.parity.report.junit import to_junit
    from eca_multi.parity.report.terminal import print_summary

    content = read_report(path)
    print_summary(content, Console(file=io.StringIO(), emoji=False))
    return to_html(content), to_junit(content)


def read_bundle(path: Path) -> object:
    from eca_multi.parity.explain.bundle import read_bundle

    return read_bundle(path)


@dataclass(frozen=True)
class Form:
    """A format: its readers, and what its files hold."""

    readers: tuple[Callable[[Path], object], ...]
    kind: str = "bytes"
    share: int = 10  # of all inputs
    bound: tuple[int, int] = PLAIN


FORMS = {
    "torch-zip": Form((read_generic, read_own("torch")), "zip"),
    "torch-legacy": Form((read_own("torch"), read_generic), "pickle"),
    "safetensors": Form((read_generic, read_own("torch"), read_compared), "header"),
    "canonical": Form((read_canonical,), "header", 5),
    "keras": Form((read_generic, read_own("keras")), "zip"),
    "keras-h5": Form((read_generic, read_own("keras")), "hdf5"),
    "linen": Form((read_generic, read_own("flax.linen"))),
    "nnx": Form((read_generic, read_own("flax.nnx")), share=5),
    "orbax": Form((read_own("flax.linen"), read_generic), "folder", 2, PACKED),
    "config": Form((read_config,), "folder", 5),
    "plan": Form((read_plan,), "json", 5),
    "report": Form((read_report,), "json", 3),
    "bundle": Form((read_bundle,), "folder", 5),
}


# --- changes -------------------------------------------------------------------------------------------------------

ODD_NUMBERS = (0, 1, -1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
ODD_JSON = (
    "1e999", "NaN", "-1", "0", "1e-400", "true", "null", '""', '"\\u001b[31m\\ud800"', "[]", "{}", "[[[[]]]]", "1.5",
    str(2**31), str(2**63), "9" * 400, "9" * 5000, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000,
    '"' + "x" * 3000 + '"', '[3, "x", null]', '["../../etc/passwd"]',
)  # fmt: skip


def change(data: bytes, kind: str, rng: random.Random, other: bytes) -> bytes:
    """Change the bytes of a file in one to four places."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        special = SPECIAL.get(kind)
        if special is not None and rng.random() < 0.6:
            try:
                data = special(data, rng, other)
                continue
            except (ValueError, KeyError, IndexError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
                pass  # an earlier change broke the format
        data = rng.choice(ANYWHERE)(data, rng, other)
    return data


def place(data: bytes, rng: random.Random) -> int:
    """A place, more often near the start or the end, where headers are, than among the numbers."""
    size = max(len(data), 1)
    where = rng.random()
    if where < 0.5:
        return min(int(rng.expovariate(1 / 600)), size - 1)
    return max(size - 1 - int(rng.expovariate(1 / 600)), 0) if where < 0.75 else rng.randrange(size)


def flip(data: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 4)):
        changed[place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_byte(data: bytes, rng: random.Random, _: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    changed[place(changed, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncate(data: bytes, rng: random.Random, _: bytes) -> bytes:
    return data[: place(data, rng)]


def set_length(data: bytes, rng: random.Random, _: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((*ODD_NUMBERS, len(data), len(data) + 1, rng.randrange(2**16))) % 256**width
    at = place(data, rng)
    return data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    source = rng.choice((data, other))
    start, at = place(source, rng), place(data, rng)
    piece = source[start : start + rng.randint(1, 400)]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def cut_out(data: bytes, rng: random.Random, _: bytes) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + rng.randint(1, 60) :]


ANYWHERE = (flip, flip, set_byte, set_byte, set_length, set_length, truncate, splice, cut_out)


def change_json(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Put something odd in the place of a value, or a key, or leave one out, or write it twice."""
    content = json.loads(data)
    places = list(walk(content))
    if not places:
        return data
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[rng.choice(("", "__metadata__", "x\x1b[31m", "a" * 2000, str(key)[:-1]))] = holder.pop(key)
    elif what < 0.35:
        holder[key] = rng.choice(places)[0]
    else:
        holder[key] = "@ODD@"
    try:
        return json.dumps(content).replace('"@ODD@"', rng.choice(ODD_JSON)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return data
    except ValueError:  # it holds itself now
        return data


def walk(content: object) -> Iterator[tuple[dict | list, object]]:
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield content, key
        if isinstance(value, dict | list):
            yield from walk(value)


def change_header(data: bytes, rng: random.Random, other: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + length], rng, other)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


PIECES = (  # of pickles
    b"0", b"1", b"2", b"(", b")", b"]", b"}", b"l", b"d", b"t", b"\x85", b"\x86", b"\x87", b"N", b"\x88", b"\x89", b"a",
    b"e", b"s", b"u", b"b", b"R", b"\x81", b"Q", b"\x93", b"\x94", b"\x8f", b"\x90", b"\x91", b"o", b".", b"h\x00",
    b"h\x01", b"q\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"K\x00", b"K\xff", b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"G\x7f\xf0" + bytes(6), b"F1e999\n", b"L99L\n",
    b"I01\n",
    b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b"cposix\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n",
    b"\x86" + b"2\x86" * 60 + b"}\x88\x88s", b"ctorch\nFloatStorage\n", b"iposix\nsystem\n", b"Pstorage\n",
)  # fmt: skip


def change_pickle(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Take an opcode out, put another in or exchange two, in one of the pickles at the start of a file."""
    places, start = [], 0
    for _ in range(5):
        stream = io.BytesIO(data[start : start + 100_000])
        try:
            places += [start + at for *_, at in pickletools.genops(stream)]
        except ValueError:
            break
        start += stream.tell()
    if len(places) < 4:
        raise ValueError("no pickle")
    i = rng.randrange(len(places) - 1)
    j = rng.randrange(len(places) - 1)
    one, another = data[places[i] : places[i + 1]], data[places[j] : places[j + 1]]
    piece = rng.choice((b"", rng.choice(PIECES), rng.choice(PIECES), another, one + one, one + rng.choice(PIECES)))
    return data[: places[i]] + piece + data[places[i + 1] :]


def change_archive(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Change a member of an archive, and write the archive again with right checksums; or a field of its directory."""
    if rng.random() < 0.25:
        sign = rng.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
        starts = [match.start() for match in re.finditer(re.escape(sign), data)]
        at = rng.choice(starts) + rng.randrange(4, 46)
        return data[:at] + bytes([rng.randrange(256) for _ in range(rng.choice((1, 2, 4)))]) + data[at + 2 :]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    heads = [i for i, (name, _) in enumerate(members) if name.endswith(("data.pkl", ".h5"))]
    i = rng.choice(heads) if heads and rng.random() < 0.8 else rng.randrange(len(members))
    name, content = members[i]
    inner = rng.choice(ANYWHERE)
    if name.endswith((".pkl", ".h5")) and rng.random() < 0.8:
        inner = change_pickle if name.endswith(".pkl") else change_hdf5
    members[i] = (name, inner(content, rng, other))
    if rng.random() < 0.1:
        members.append(members[rng.randrange(len(members))])
    written = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", how) as archive:
        warnings.simplefilter("ignore")  # about a name that is there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return written.getvalue()


def change_hdf5(data: bytes, rng: random.Random, _: bytes) -> bytes:
    """Change a few bytes behind a signature of HDF5's: of trees, heaps, tables of symbols, and the objects before."""
    starts = [match.start() for match in re.finditer(b"TREE|HEAP|SNOD|GCOL|\x89HDF", data)]
    if not starts:
        raise ValueError("no HDF5")
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.choice(starts)
        at = min(
            max(start + rng.choice((rng.randrange(4, 60), rng.randrange(4, 600), -rng.randrange(600))), 0),
            len(data) - 9,
        )
        width = rng.choice((1, 1, 2, 4, 8))
        number = rng.choice((*ODD_NUMBERS, *starts, len(data), rng.randrange(256), changed[at] + 1)) % 256**width
        changed[at : at + width] = number.to_bytes(width, "little")
    return bytes(changed)


SPECIAL = {
    "json": change_json,
    "hdf5": change_hdf5,
    "header": change_header,
    "pickle": change_pickle,
    "zip": change_archive,
}


def change_folder(folder: Path, rng: random.Random) -> None:
    """Change one to three files of a folder, or leave one out; the checksums of a bundle are made right again."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    texts = [file for file in files if file.read_bytes()[:1] == b"{"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        file = rng.choice(texts) if texts and rng.random() < 0.6 else rng.choice(files)
        if rng.random() < 0.04:
            file.unlink(missing_ok=True)
        elif file.exists():
            kind = "json" if file in texts else "header" if file.suffix == ".safetensors" else "bytes"
            file.write_bytes(change(file.read_bytes(), kind, rng, b""))
    about = folder / "bundle.json"
    if about.exists() and rng.random() < 0.7:
        import hashlib

        try:
            content = json.loads(about.read_bytes())
            for name in content["sha256"]:
                content["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            about.write_text(json.dumps(content))
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            pass  # it is broken already


# --- one input -----------------------------------------------------------------------------------------------------


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


# --- many inputs ---------------------------------------------------------------------------------------------------


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
