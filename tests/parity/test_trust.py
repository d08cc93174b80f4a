"""A bundle is data: what it names and is not this package's runs for those alone who say that they trust it.

The bundles here are forged as an attacker would, sums and all. Each leaves a file .mark if its code runs.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from eca_multi import parity
from eca_multi._pytest_plugin import pytest_configure_node
from eca_multi.parity import NumpyAdapter, Spec, SpecError
from eca_multi.parity.define.runners import Runner, reference_of, runners_of
from eca_multi.parity.explain.bundle import FILES, SUMS, Bundle, read_bundle, replay_command
from eca_multi.parity.explain.trust import Untrusted, check_trust, what_runs
from eca_multi.parity.report.json import read_report
from eca_multi.parity.specs import SHIPPED
from tests.support.parity_runs import cli
from tests.support.report_fixture import make

HERE = Path(__file__)
OURS = {"runner": "jax", "adapter": "eca_multi.parity.specs.eca:Jax", "reference": "eca_multi.parity.specs.eca:Oracle"}
LEAVE = "from pathlib import Path\nPath(__file__).with_suffix('.mark').touch()\n"


class Wrong(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: 2 * inputs["x"]


class Half(NumpyAdapter):
    def build(self, config):
        return lambda inputs, weights: inputs["x"] / 2


def double(inputs, weights):
    return inputs["x"] * 2


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """The bundle of a failure of somebody's own adapter, judged by our reference."""
    options = {"dtypes": ["float32"], "cases": ["one-position"], "checks": ["forward"]}
    folder = tmp_path_factory.mktemp("found")
    report = parity.run(runners=[f"{HERE}:Wrong"], bundles=folder, **options)
    return Path(report.localisations[0].bundle)


@pytest.fixture
def forge(found, tmp_path):
    """Make a bundle of what a forger wants; by default, one of our own adapter."""

    def make(**fields) -> Path:
        folder = shutil.copytree(found, tmp_path / "bundle")
        about = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps({**about, **OURS, **fields}))
        seal(folder)
        return folder

    return make


def seal(folder: Path) -> None:
    """Renew the sums, as an attacker does."""
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES]
    (folder / SUMS).write_text("".join(sums))


def _adapter(folder: Path) -> dict[str, object]:
    (folder / "mine.py").write_text(
        f"{LEAVE}from eca_multi.parity import NumpyAdapter\nclass Layer(NumpyAdapter):\n    def build(self, config):\n"
        "        return lambda inputs, weights: inputs['x']\n"
    )
    return {"adapter": f"{folder / 'mine.py'}:Layer"}


def _environment(folder: Path) -> dict[str, object]:
    (folder / "sitecustomize.py").write_text(LEAVE)
    return {"env": {"PYTHONPATH": str(folder)}}


def _interpreter(folder: Path) -> dict[str, object]:
    script = folder / "python"
    script.write_text(f'#!/bin/sh\ntouch "{script}.mark"\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return {"python": str(script)}


def _reference(folder: Path) -> dict[str, object]:
    (folder / "truth.py").write_text(f"{LEAVE}def truth(inputs, weights):\n    return 2 * inputs['x']\n")
    return {"reference": f"{folder / 'truth.py'}:truth"}


def marks(folder: Path) -> set[str]:
    """The files that ran."""
    return {path.stem for path in folder.rglob("*.mark")}


FORGED = {"adapter": _adapter, "environment": _environment, "interpreter": _interpreter, "reference": _reference}


@pytest.mark.parametrize("command", ["replay", "localize"])
@pytest.mark.parametrize("part", FORGED)
def test_what_a_bundle_names_does_not_run(forge, tmp_path, part, command):
    fields = FORGED[part](tmp_path)
    done = cli(command, forge(**fields))
    assert (done.exit_code, marks(tmp_path)) == (2, set())
    [named] = [line for line in done.stderr.splitlines() if "(NAMED BY THE BUNDLE)" in line]
    assert named.split()[0] == part
    assert str(tmp_path) in named  # as a whole, to be read and copied
    assert "add --trust" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("adapter", "environment", "reference"), ("interpreter",)], ids=" ".join)
def test_what_is_trusted_runs(forge, tmp_path, parts):
    """The control of the test above: every part leaves its mark. Beside a NumPy adapter, which starts in no time."""
    fields = {"adapter": f"{HERE}:Wrong", "runner": "numpy"}
    for part in parts:
        fields |= FORGED[part](tmp_path)
    parity.replay(forge(**fields), trust=True)
    files = {"adapter": "mine", "environment": "sitecustomize", "reference": "truth", "interpreter": "python"}
    assert marks(tmp_path) == {files[part] for part in parts}


@pytest.mark.parametrize("part", FORGED)
def test_replay_in_python_refuses_too(forge, tmp_path, part):
    with pytest.raises(Untrusted, match=r"(?s)a bundle is data.*NAMED BY THE BUNDLE.*trust=True"):
        parity.replay(forge(**FORGED[part](tmp_path)))
    assert not marks(tmp_path)


@pytest.mark.slow
def test_the_script_of_a_bundle_refuses_too(forge, tmp_path):
    folder = forge(**_adapter(tmp_path))
    done = subprocess.run([sys.executable, folder / "repro.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, marks(tmp_path)) == (2, set())
    assert "NAMED BY THE BUNDLE" in done.stderr
    subprocess.run([sys.executable, folder / "repro.py", "--trust"], check=True, capture_output=True)
    assert marks(tmp_path) == {"mine"}


@pytest.mark.slow
def test_a_bundle_of_ours_is_replayed_and_says_before_what_runs(forge):
    done = cli("replay", forge())
    assert done.exit_code == 0, done.output
    assert "All agree" in done.stdout
    said = [line.split() for line in done.stderr.splitlines()]
    assert ["adapter", "'eca_multi.parity.specs.eca:Jax'", "(of", "eca_multi)"] in said
    assert ["interpreter", repr(sys.executable), "(this", "one)"] in said


@pytest.mark.slow
def test_a_bundle_of_ours_is_localised(forge):
    done = cli("localize", forge())
    assert (done.exit_code, done.stdout) == (0, "It does not fail here.\n")


@pytest.mark.slow
def test_an_adapter_of_your_own_needs_no_trust(found):
    """It is named by who calls, and so is not the bundle's; the reference is ours."""
    done = cli("replay", found, "--runner", f"{HERE}:Wrong")
    assert done.exit_code == 1, done.output
    assert "(yours)" in done.stderr


def test_the_name_of_the_bundles_own_runner_makes_it_nobody_elses(forge, tmp_path):
    folder = forge(**_adapter(tmp_path))
    done = cli("replay", folder, "--runner", "jax")
    assert (done.exit_code, marks(tmp_path)) == (2, set())


def test_a_foreign_reference_beside_an_adapter_of_your_own_needs_trust(forge, tmp_path):
    done = cli("replay", forge(**_reference(tmp_path)), "--runner", f"{HERE}:Wrong")
    assert (done.exit_code, marks(tmp_path)) == (2, set())


NEARLY = {
    "a part of a class": {"adapter": "eca_multi.parity.specs.eca:Torch.build"},
    "another object of the module": {"adapter": "eca_multi.parity.specs.eca:mock.patch"},
    "a module of the same end": {"adapter": "x.eca_multi.parity.specs.eca:Torch"},
    "a module below": {"adapter": "eca_multi.parity.specs.eca.more:Torch"},
    "another module of ours": {"adapter": "eca_multi.parity.define.scaffold:scaffold"},
    "our file by its path": {"adapter": f"{Path(parity.__file__).parent / 'specs' / 'eca.py'}:Torch"},
    "a function as the reference": {"reference": "os:system"},
    "the runner as the reference": {"reference": "jax"},
    "a library to load": {"env": {"LD_PRELOAD": "/tmp/x.so"}},
    "a file to start with": {"env": {"PYTHONSTARTUP": "/tmp/x.py"}},
    "a setting of another runner": {"env": {"KERAS_BACKEND": "jax"}},
    "one setting more": {"adapter": "eca_multi.parity.specs.eca:Keras", "env": {"KERAS_BACKEND": "jax", "A": "1"}},
    "this interpreter by its path": {"python": sys.executable},
}


@pytest.mark.parametrize("how", NEARLY)
def test_nearly_ours_is_not_ours(forge, how):
    folder = forge(**NEARLY[how])
    with pytest.raises(Untrusted, match="NAMED BY THE BUNDLE"):
        check_trust(read_bundle(folder), folder)


def test_nothing_is_imported_to_find_out_whose_code_it_is(forge, tmp_path):
    (tmp_path / "specs").mkdir()
    (tmp_path / "stranger.py").write_text(LEAVE)
    sys.path.append(str(tmp_path))
    try:
        folder = forge(adapter="stranger:Layer", reference="stranger:truth")
        with pytest.raises(Untrusted, match="NAMED BY THE BUNDLE"):
            parity.replay(folder)
    finally:
        sys.path.remove(str(tmp_path))
    assert not marks(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_runner_of_ours_needs_no_trust(found, name):
    example = read_bundle(found)
    specs = [s for s in vars(import_module(f"eca_multi.parity.specs.{name}")).values() if isinstance(s, Spec)]
    assert specs
    for spec in specs:
        for runner in runners_of(spec):
            own = {"adapter": runner.adapter, "env": dict(runner.env), "reference": reference_of(spec).adapter}
            check_trust(Bundle(**{**vars(example), **own, "python": runner.python}), "folder")


def test_what_would_run_cannot_pose_as_another_line(forge):
    folder = forge(adapter="/tmp/x.py:Layer (of eca_multi)\n  adapter      'ours' (of eca_multi)\x1b[8m")
    shown = what_runs(read_bundle(folder))
    assert len(shown.splitlines()) == 4
    assert "\x1b" not in shown


ODD = (None, True, -1, 10**400, float("nan"), float("inf"), "", "a\0b", "\ud800", "../x", "a:b", [], [3], {}, {"a": 3})


def leaves(value, path=()):
    """The path to everything in a description."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


@pytest.mark.slow
def test_a_description_of_anything_is_refused_or_run(forge, monkeypatch):
    """Not a fault of ours, with a traceback and exit 3. What runs is left out."""
    ran = []
    monkeypatch.setattr("eca_multi.parity.offline.run_tasks", lambda *args, **options: ran.append(args))
    folder = forge(env={"A": "1"}, manual={"rtol": 0.1, "atol": 0.0})
    text = (folder / "bundle.json").read_text()
    refused = 0
    for path in list(leaves(json.loads(text))):
        for odd in ODD:
            about = json.loads(text)
            inner = about
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            (folder / "bundle.json").write_text(json.dumps(about))
            seal(folder)
            try:
                parity.replay(folder, trust=True)
            except SpecError:
                refused += 1
    assert len(ran) > 100
    assert refused > 300


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_bundle_is_summed(found, tmp_path, name):
    folder = shutil.copytree(found, tmp_path / "bundle")
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(SpecError, match=f"{name} has changed|JSONDecodeError"):
        read_bundle(folder)


def test_the_sums_are_those_that_sha256sum_checks(found):
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    subprocess.run([tool, "--strict", "--check", SUMS], cwd=found, check=True, capture_output=True)


def test_a_bundle_of_an_older_version_says_so(forge):
    folder = forge(schema=2)
    with pytest.raises(SpecError, match=r"schema 2, expected 3\. Write it again with `eca-multi parity run --bundles"):
        read_bundle(folder)


def test_a_description_that_is_changed_is_found(found, tmp_path):
    """Which the sums of schema 2 left out."""
    folder = shutil.copytree(found, tmp_path / "bundle")
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"env": {}', '"env": {"LD_PRELOAD": "/tmp/x.so"}'))
    with pytest.raises(SpecError, match=r"bundle\.json has changed since it was written"):
        parity.replay(folder, trust=True)


@pytest.mark.slow
def test_a_runner_does_not_choose_the_folder_of_its_bundle(tmp_path):
    """Nor does it take another's: as plain names of files, most of these are one."""
    folder = tmp_path / "a" / "b" / "bundles"
    folder.mkdir(parents=True)
    names = ["../../../n", "/n", "a/b", "a-b", "a b"]
    spec = Spec("Double", "N C", weights={}, runners=dict.fromkeys(names, f"{HERE}:Half"), reference=f"{HERE}:double")
    report = parity.run(spec, dtypes=["float32"], cases=["offsets"], checks=["forward"], bundles=folder)
    written = {path.parent for path in tmp_path.rglob("bundle.json")}
    assert {path.parent for path in written} == {folder}
    assert {found.bundle for found in report.localisations} == set(map(str, written))
    assert len(written) == len(names)
    *_, folder, trust = shlex.split(report.replay)
    assert folder in map(str, written)
    assert trust == "--trust"  # the adapters are the user's


def test_a_report_of_a_stranger_asks_for_no_trust(tmp_path):
    """The run prints the command with --trust; what reads its file shows the command without."""
    command = replay_command("found", trust=True)
    assert command == "eca-multi parity replay found --trust"
    report = make()
    report |= {"replay": command, "localisations": [{**row, "replay": command} for row in report["localisations"]]}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    read = read_report(file)
    assert read["replay"] == replay_command("found")
    assert {row["replay"] for row in read["localisations"]} == {replay_command("found")}
    file.write_text(json.dumps({**report, "replay": f"{command} --trust"}))
    with pytest.raises(ValueError, match=r"replay is .*expected `eca-multi parity replay FOLDER`"):
        read_report(file)


def test_two_runners_of_one_name_are_refused():
    with pytest.raises(SpecError, match=r"each runner of Double must have a name of its own\. Received: 'a-b' twice"):
        runners_of(Spec("Double", "N C", weights={}, runners={"a:b": "x:y", "a-b": "x:y"}, reference="x:y"))


def test_the_folder_that_workers_of_pytest_share_is_their_users_alone():
    """Pickles lie there, and reading one runs it."""
    ends = []
    config = SimpleNamespace(stash=pytest.Stash(), add_cleanup=ends.append)
    node = SimpleNamespace(config=config, workerinput={})
    old = os.umask(0)
    try:
        pytest_configure_node(node)
    finally:
        os.umask(old)
    folder = Path(node.workerinput["eca_multi_parity"])
    mode = folder.stat().st_mode
    for end in ends or [folder.rmdir]:
        end()
    assert mode & 0o777 == 0o700


def test_the_remedy_is_one_that_helps(forge):
    folder = forge(reference="stranger:truth")
    with pytest.raises(Untrusted, match=r"trust=True\), or name an adapter of your own by --runner"):
        check_trust(read_bundle(folder), folder)
    with pytest.raises(Untrusted, match=r"Then add --trust \(in Python trust=True\)\.$"):
        check_trust(read_bundle(folder), folder, [Runner("mine", "mine.py:Layer")])
