"""The harness as a process among processes: output that cannot be printed, signals, disks, and what is left behind.

Each run is of a layer of NumPy alone, on one case. Nothing may outlive it: no worker, nothing that a worker started, no
folder; and a report that was asked for is whole or not there.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eca_multi import parity
from eca_multi.parity import Case, Verdict
from tests.support import parity_workers as workers

SPECS = Path(workers.__file__)
QUICK = ("--dtype", "float32", "--check", "forward")
REPORTS = {"--json": "report.json", "--html": "report.html", "--junit": "report.xml"}


@pytest.fixture
def place(tmp_path):
    """A folder for the temporary files of a run, and one for what comes of it."""
    for name in ("tmp", "out"):
        (tmp_path / name).mkdir()
    return tmp_path


def command(spec: str, place: Path | None = None, *options: object) -> list[str]:
    reports = [str(part) for o, name in REPORTS.items() for part in (o, place / "out" / name)] if place else []
    return [sys.executable, "-m", "eca_multi", "parity", f"{SPECS}:{spec}", *QUICK, *reports, *map(str, options)]


def environment(place: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**kept, "TMPDIR": str(place / "tmp"), "PARITY_TEST_FOLDER": str(place), "COLUMNS": "500", **more}


def shell(redirection: str, arguments: list[str], env: dict[str, str], **options) -> subprocess.CompletedProcess:
    """Run a command with its descriptors as a shell leaves them."""
    line = ["bash", "-c", f'exec "$@" {redirection}', "bash", *arguments]
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=120, **options)


def quick(spec, **options):
    return parity.run(spec, **{"dtypes": ["float32"], "checks": ["forward"], **options})


def is_alive(process: int, seconds: float = 10) -> bool:
    """Whether a process is still there after a while; a zombie is not."""
    stat = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def wait_for(file: Path, seconds: float = 60) -> int:
    """Return the process that a worker wrote down."""
    deadline = time.monotonic() + seconds
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.05)
    return int(file.read_text())


def assert_whole(place: Path, code: int) -> None:
    """All three reports are there, and say how the run ended."""
    out = place / "out"
    assert json.loads((out / "report.json").read_text())["exit_code"] == code
    assert (out / "report.html").read_text().rstrip().endswith("</html>")
    assert ElementTree.parse(out / "report.xml").getroot().tag == "testsuites"
    assert sorted(path.name for path in out.iterdir()) == sorted(REPORTS.values())


def assert_clean(place: Path) -> None:
    assert not list((place / "tmp").iterdir())


# --- what cannot be printed ----------------------------------------------------------------------------------------

slow = pytest.mark.slow
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "redirection", "env", "status"),
    [
        pytest.param("GREEN", ">/dev/full", {}, 3, id="green-full"),
        pytest.param("RED", ">/dev/full", {}, 1, id="red-full", marks=slow),
        pytest.param("GREEN", ">&-", {}, 0, id="green-closed", marks=slow),
        pytest.param("RED", ">&-", {}, 1, id="red-closed", marks=slow),
        pytest.param("GREEN", "<&- >&- 2>&-", {}, 0, id="green-all closed", marks=slow),
        pytest.param("RED", "<&- >&- 2>&-", {}, 1, id="red-all closed", marks=slow),
        pytest.param("GREEN", "2>&-", {}, 0, id="green-no errors", marks=slow),
        pytest.param("GREEN", "2>/dev/full", {}, 0, id="green-full errors", marks=slow),
        pytest.param("GREEN", "<&-", {}, 0, id="green-no input", marks=slow),
        pytest.param("UNSHOWN", "", ASCII, 3, id="unprintable-ascii"),
        pytest.param("UNSHOWN", ">/dev/full 2>&1", ASCII, 3, id="unprintable-ascii-all full", marks=slow),
        pytest.param("RED", "", ASCII, 1, id="red-ascii", marks=slow),
    ],
)
def test_what_cannot_be_printed_costs_no_report_and_no_verdict(place, spec, redirection, env, status):
    done = shell(redirection, command(spec, place), environment(place, **env))
    assert done.returncode == status, done.stderr
    assert_whole(place, {"GREEN": 0, "RED": 1, "UNSHOWN": 3}[spec])
    assert_clean(place)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    if redirection == ">/dev/full":
        assert "The output could not be printed: [Errno 28] No space left on device" in done.stderr
    if env and not redirection:
        assert done.stdout.isascii()
        assert r"half a character \ud800, an escape \x1b[2J, and a word: gr\xf6\xdfer" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["GREEN", pytest.param("RED", marks=slow)])
def test_a_reader_that_goes_ends_it_quietly_with_its_own_status(place, spec):
    """As `| head -1` does; here it is gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(spec, place), stdout=writer, stderr=subprocess.PIPE, env=environment(place), text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1 if spec == "RED" else 0, "")
    assert_whole(place, done.returncode)


ALL = ("kernel-size 64", "--version", "--help", "parity list", "parity compare FILE FILE", "plan os:getcwd")


@pytest.mark.parametrize("how", [">/dev/full", "| true", ">&-"])
@pytest.mark.parametrize("line", [ALL[0], *(pytest.param(line, marks=slow) for line in ALL[1:])])
def test_every_command_prints_in_the_same_steady_way(place, line, how):
    file = place / "a.safetensors"
    file.write_bytes((2).to_bytes(8, "little") + b"{}")
    arguments = [sys.executable, "-m", "eca_multi", *line.replace("FILE", str(file)).split()]
    own = {"plan os:getcwd": 2, ALL[4]: 4}.get(line, 0)  # what each says of itself
    piped = how.startswith("|")
    status = "exit ${PIPESTATUS[0]}" if piped else "exit $?"
    done = subprocess.run(
        ["bash", "-c", f'"$@" {how}; {status}', "bash", *arguments],
        capture_output=True, text=True, check=False, env=environment(place),
    )  # fmt: skip
    assert done.returncode == (own or 3 if how == ">/dev/full" and own == 0 else own), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_report_that_cannot_be_written_costs_none_of_the_others(place):
    options = [part for o, name in REPORTS.items() for part in (o, place / "out" / name)]
    os.symlink("/dev/full", place / "out" / "report.html")
    done = shell("", command("GREEN", None, *options), environment(place))
    assert done.returncode == 2
    assert "report.html could not be written: [Errno 28]" in done.stderr
    assert json.loads((place / "out" / "report.json").read_text())["exit_code"] == 0
    assert ElementTree.parse(place / "out" / "report.xml").getroot().tag == "testsuites"
    assert "All agree" in done.stdout


# --- signals -------------------------------------------------------------------------------------------------------


def start(arguments: list[str], place: Path, **options) -> subprocess.Popen:
    """Start a command that heeds Ctrl-C, which a background job of a shell is told to ignore."""
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", heed, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place), **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        pytest.param(signal.SIGINT, 130, id="INT", marks=slow),
        pytest.param(signal.SIGHUP, 129, id="HUP", marks=slow),
        pytest.param(signal.SIGQUIT, 131, id="QUIT", marks=slow),
        pytest.param(signal.SIGKILL, -9, id="KILL"),
    ],
)
def test_a_signal_ends_all_that_the_run_started(place, number, status):
    """Workers and what they started in a session of its own, also where the harness itself can do nothing more."""
    process = start(command("HANGING", place), place)
    try:
        started = [wait_for(place / name) for name in ("hangs", "hangs-child")]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, stderr
    assert not [number for number in started if is_alive(number)]
    assert not list((place / "out").iterdir())
    assert "Traceback" not in stderr
    if number != signal.SIGKILL:
        assert_clean(place)
        assert stderr.strip().splitlines()[-1] == "Interrupted; the workers have been ended."


@pytest.mark.slow
def test_an_interruption_of_the_api_ends_the_workers(place, monkeypatch):
    """Ctrl-C is a KeyboardInterrupt in a user's own process."""
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    monkeypatch.setenv("PARITY_TEST_FOLDER", str(place))

    def interrupt(what, done, total):
        if what == "numpy" and done:
            started.extend(wait_for(place / name) for name in ("hangs", "hangs-child"))
            raise KeyboardInterrupt

    started: list[int] = []
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        quick(workers.HANGING, progress=interrupt, workers=3)
    assert len(started) == 2
    assert not [number for number in started if is_alive(number)]
    assert_clean(place)


@slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_pytest_that_is_interrupted_leaves_no_workers(place, number, status):
    (place / "test_it.py").write_text(
        f"""
import pytest

@pytest.mark.parity("{SPECS}:HANGING", runners="numpy-hangs", dtypes="float32", checks="forward")
def test_it(parity):
    parity()
"""
    )
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(place / "test_it.py")]
    process = start(arguments, place, cwd=place)
    try:
        started = [wait_for(place / name) for name in ("hangs", "hangs-child")]
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert not [number for number in started if is_alive(number)]


# --- what workers start, and how they end --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_child_in_a_session_of_its_own_ends_with_the_run(place, monkeypatch):
    monkeypatch.setenv("PARITY_TEST_FOLDER", str(place))
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, "ECA_MULTI_WORKER": "of another run"})
    try:
        report = quick(replace(workers.GREEN, runners={"numpy": workers.LeavesAChild}))
        assert report.exit_code == 0
        assert not is_alive(wait_for(place / "leaves-child"))
        assert other.poll() is None  # what another run started goes on
    finally:
        other.kill()
        other.wait()


@pytest.mark.slow
def test_a_worker_that_dies_beside_its_copy_has_crashed():
    """And is not waited for until it times out: the copy holds the pipes."""
    report = quick(replace(workers.GREEN, runners={"numpy-forks": workers.DiesBesideAFork, "numpy": workers.Scale}))
    assert [(state.name, state.state) for state in report.runners] == [("numpy-forks", "crashed"), ("numpy", "ran")]
    assert report.runners[0].detail == "exit status 9\nlast words"


@slow
def test_a_worker_that_dies_while_nobody_asks_is_not_waited_for():
    """What it is asked next is asked of nobody."""
    slow_one = replace(workers.FIELDS["cases"][0], name="another")
    spec = replace(workers.GREEN, runners={"numpy-dies": workers.DiesWhileNobodyAsks}, cases=(slow_one,))

    def dawdle(what, done, total):
        if done:
            time.sleep(1.5)

    report = quick(spec, progress=dawdle)
    [found] = report.localisations
    assert "the worker crashed: ended earlier in this run: exit status 7" in found.line
    assert report.exit_code == 1


@slow
def test_a_harness_that_was_busy_listens_before_it_calls_a_worker_silent():
    """Or was stopped, as by Ctrl-Z: the workers answer meanwhile."""

    def dawdle(what, done, total):
        if done == 1:
            time.sleep(7)

    spec = replace(workers.GREEN, runners={f"numpy-{letter}": workers.Scale for letter in "abc"})
    report = quick(spec, progress=dawdle, timeout=5, workers=4)
    assert [state.state for state in report.runners] == ["ran", "ran", "ran"]
    assert len(report.compared) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "detail"),
    [
        pytest.param("Exits", "exit status 5\nthe last words of the reference", id="exit", marks=slow),
        pytest.param("Leaves", "exit status 1\nit leaves", id="SystemExit", marks=slow),
        pytest.param("Killed", "exit status -9", id="SIGKILL"),
        pytest.param("Waits", "said nothing for 2 s", id="timeout", marks=slow),
    ],
)
def test_a_reference_that_dies_is_exit_3_with_a_report(reference, detail):
    """What was judged before stands, and what was not is inconclusive."""
    cases = (Case("first"), Case("second", config={"N": 1}))
    spec = replace(workers.GREEN, reference=getattr(workers, reference), cases=cases)
    report = quick(spec, timeout=2 if reference == "Waits" else 60)
    assert report.exit_code == 3
    assert {cell.case: cell.verdict.green for cell in report.cells}["first"]
    [open_cell] = [cell for cell in report.cells if cell.case == "second"]
    assert open_cell.verdict is Verdict.INCONCLUSIVE
    kind = "timed out" if reference == "Waits" else "crashed"
    assert f"there is nothing to judge it by: the reference {kind}: " in open_cell.reason
    [state] = [state for state in report.runners if state.name == "reference"]
    assert (state.state, state.detail) == (kind, detail)
    assert report.ran == ["numpy"]
    with pytest.raises(RuntimeError, match=f"reference: {kind}: "):
        report.raise_for_status()


def test_all_checks_of_a_reference_that_dies_end_in_a_report():
    """Training starts from its points, which are not there."""
    report = parity.run(
        replace(workers.GREEN, reference=workers.Killed, cases=(Case("only", config={"N": 1}),)),
        dtypes=["float32"],
        checks=["forward", "trajectory", "roundtrip", "determinism", "power"],
    )
    assert report.exit_code == 3
    assert {cell.check for cell in report.cells if cell.verdict is Verdict.INCONCLUSIVE} == {"forward", "trajectory"}
    assert {cell.verdict for cell in report.cells if cell.check == "roundtrip"} == {Verdict.UNSUPPORTED}


@slow
def test_a_reference_that_dies_is_shown_and_written(place):
    file = place / "mine.py"
    file.write_text(
        """
import sys
from dataclasses import replace
from tests.support import parity_workers as workers
from eca_multi.parity import Case

class Dies(workers.Killed):
    pass

SPEC = replace(workers.GREEN, reference=Dies, cases=(Case("only", config={"N": 1}),))
"""
    )
    arguments = command("", place)
    arguments[4] = f"{file}:SPEC"
    done = shell("", arguments, environment(place))
    assert done.returncode == 3, done.stderr
    assert_whole(place, 3)
    assert "crashed reference: exit status -9" in done.stdout
    assert "A runner raised, crashed or timed out" in done.stdout
    assert "1 of 1 runners ran" in done.stdout


# --- the machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"HOME": None}, id="no HOME", marks=slow),
        pytest.param({"HOME": "/nowhere"}, id="no such HOME", marks=slow),
        pytest.param({"TMPDIR": "/nowhere"}, id="no such TMPDIR", marks=slow),
        pytest.param({"TMPDIR": None, "LANG": None, "LC_ALL": "C"}, id="C locale", marks=slow),
    ],
)
def test_a_bare_environment_is_enough(place, env):
    whole = {name: value for name, value in {**environment(place), **env}.items() if value is not None}
    done = subprocess.run(command("GREEN", place), env=whole, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_whole(place, 0)


@pytest.mark.parametrize("blocks", [0, 1, 2])
@slow
def test_files_that_may_not_grow_end_it_in_a_line(place, blocks):
    """512 bytes each: before the data are written, while the workers answer, or when the report is."""
    done = shell(
        "", ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *command("RED", place)], environment(place)
    )
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    assert re.search(r"File too large|No space left|No usable temporary directory", done.stderr + done.stdout)
    assert_clean(place)
    for file in (place / "out").iterdir():
        assert file.name == "report.json"
        json.loads(file.read_text())


@pytest.fixture
def tiny_disk(place):
    """A file system of a few pages in the place of the temporary folder."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place / "tmp"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "-l", place / "tmp"], check=True)


@slow
@pytest.mark.parametrize("free", [0, 4096, 8192, 12288])
def test_a_full_temporary_folder_ends_it_in_a_line(tiny_disk, free):
    """Pages that are left: none, and Python looks for another folder; some, for the data and not for the answers."""
    filler = tiny_disk / "tmp" / "filler"
    filler.write_bytes(b"x" * (16384 - free))
    done = shell("", command("RED", tiny_disk), environment(tiny_disk))
    assert done.returncode in (1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert ("No space left on device" in done.stderr + done.stdout) == (free > 0)
    assert [path.name for path in (tiny_disk / "tmp").iterdir()] == ["filler"]
    if list((tiny_disk / "out").iterdir()):
        assert_whole(tiny_disk, done.returncode)


@slow
def test_three_runs_at_once_do_not_disturb_each_other(place):
    """In one temporary folder, and with one place for their reports."""
    runs = [start(command("GREEN", place), place) for _ in range(3)]
    try:
        ends = [(*run.communicate(timeout=120), run.returncode) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for stdout, stderr, status in ends:
        assert status == 0, stderr
        assert "All agree" in stdout
    assert_whole(place, 0)
    assert_clean(place)
