"""What an import brings along, in a process of its own: the framework that was asked for, and no change to anything."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Imports our modules after what they stand on, and says what that changed. `before` and `ours` are lists of modules.
REPORT = """
import contextlib, importlib, io, json, logging, os, random, sys, warnings
import numpy as np

def loaded():
    return sorted({"torch", "tensorflow", "keras", "jax", "flax"} & set(sys.modules))

def packages():
    return {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"eca_multi"}

def state():
    result = {
        "environment": dict(os.environ),
        "sys.path": sys.path,
        "working directory": os.getcwd(),
        "warning filters": warnings.filters,
        "log handlers": logging.getLogger().handlers,
        "log level": logging.getLogger().level,
        "NumPy errors": np.geterr(),
        "NumPy printing": np.get_printoptions(),
        "NumPy random state": np.random.get_state(legacy=False),
        "random state": random.getstate(),
    }
    if "torch" in sys.modules:
        import torch
        result["torch"] = [
            torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), torch.backends.mkldnn.enabled,
            torch.backends.cudnn.allow_tf32, torch.get_rng_state().sum().item(),
        ]
    if "jax" in sys.modules:
        import jax
        result["jax"] = jax.config.values
    if "keras" in sys.modules:
        import keras
        result["keras"] = [
            keras.backend.backend(), keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(),
            keras.config.dtype_policy().name, keras.config.is_traceback_filtering_enabled(),
        ]
    return {name: repr(value) for name, value in result.items()}

for name in BEFORE:
    importlib.import_module(name)
first, loaded_first, packages_first = state(), loaded(), packages()
with contextlib.redirect_stdout(io.StringIO()) as printed:
    for name in OURS:
        importlib.import_module(name)
last = state()
print("REPORT" + json.dumps({
    "loaded first": loaded_first,
    "loaded": loaded(),
    "brought": sorted(packages() - packages_first),
    "printed": printed.getvalue(),
    "changed": sorted(name for name in last if last[name] != first.get(name)),
}))
"""

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{package}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code, **environment):
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "jax", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )


@cache
def report(before, ours, **environment):
    done = python(f"BEFORE, OURS = {before!r}, {ours!r}\n{REPORT}", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("REPORT")[2])


# Our modules, what they are imported after, and all of the frameworks that are there then.
FLOOR = ("eca_multi", "eca_multi.reference", "eca_multi.checkpoints", "eca_multi._canonical", "eca_multi.parity")
MODULES = {
    "floor": ((), FLOOR, []),
    "torch": (("torch",), ("eca_multi.torch",), ["torch"]),
    "jax": (("jax",), ("eca_multi.jax",), ["jax"]),
    "linen": (("flax.linen",), ("eca_multi.flax.linen",), ["flax", "jax"]),
    "nnx": (("flax.nnx",), ("eca_multi.flax.nnx",), ["flax", "jax"]),
}
KERAS = (("keras",), ("eca_multi.keras",))


@pytest.fixture
def backend():
    """Keras's own name of this process's backend: a Keras test is run once for each."""
    return os.environ["KERAS_BACKEND"]


@pytest.mark.parametrize("name", MODULES)
def test_only_the_framework_that_was_asked_for(name):
    before, ours, frameworks = MODULES[name]
    assert report(before, ours)["loaded"] == frameworks


@pytest.mark.keras
def test_keras_comes_with_what_it_imports_itself(backend):
    """Keras looks for jax on every backend; what counts is that nothing else comes through us."""
    result = report(*KERAS, KERAS_BACKEND=backend)
    assert result["loaded"] == result["loaded first"]
    assert set(result["loaded"]) <= {"keras", backend, "jax"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"floor"}))
def test_an_import_brings_no_package_but_the_framework(name):
    """What reads files, asks a hub or traces a network is imported where it is used: benchmarks/import_time.py."""
    before, ours, _ = MODULES[name]
    assert report(before, ours)["brought"] == []


@pytest.mark.keras
def test_the_keras_layers_bring_no_package(backend):
    assert report(*KERAS, KERAS_BACKEND=backend)["brought"] == []


@pytest.mark.parametrize("name", MODULES)
def test_an_import_changes_nothing(name):
    before, ours, _ = MODULES[name]
    assert report(before, ours)["changed"] == []
    assert report(before, ours)["printed"] == ""


@pytest.mark.keras
def test_importing_the_keras_layers_changes_nothing(backend):
    result = report(*KERAS, KERAS_BACKEND=backend)
    assert result["changed"] == []
    assert result["printed"] == ""


@pytest.fixture
def meddler(tmp_path):
    """A module that does all that ours must not do."""
    tmp_path.joinpath("meddler.py").write_text(
        "import os, logging, warnings, jax, flax\n"
        "print('hello')\n"
        "os.environ['TF32'] = '0'\n"
        "warnings.simplefilter('ignore')\n"
        "logging.basicConfig()\n"
        "jax.config.update('jax_enable_x64', True)\n",
        encoding="utf-8",
    )
    return str(tmp_path)


def test_the_report_sees_a_meddler(meddler):
    result = report(("jax",), ("meddler",), PYTHONPATH=meddler)
    assert result["loaded"] == ["flax", "jax"] != MODULES["jax"][2]
    assert "flax" in result["brought"]
    assert {"environment", "jax", "log handlers", "warning filters"} <= set(result["changed"])
    assert result["printed"] == "hello\n"


def test_the_frameworks_are_not_shadowed():
    """A folder eca_multi/torch beside `import torch`: neither name leads to the other's file."""
    pairs = {"torch": "eca_multi.torch", "keras": "eca_multi.keras", "jax": "eca_multi.jax", "flax": "eca_multi.flax"}
    done = python(
        "from importlib.util import find_spec\n"
        f"for theirs, ours in {pairs!r}.items(): print(find_spec(theirs).origin, find_spec(ours).origin)"
    )
    assert done.returncode == 0, done.stderr
    package = ROOT / "eca_multi"
    for line in done.stdout.splitlines():
        theirs, ours = map(Path, line.split())
        assert not theirs.is_relative_to(package)
        assert ours.is_relative_to(package)
    assert len(done.stdout.splitlines()) == len(pairs)


# --- a framework that is missing, or broken ---------------------------------------------------------------------------

NEEDS = {
    "eca_multi.torch": "torch",
    "eca_multi.keras": "keras",
    "eca_multi.jax": "jax",
    "eca_multi.flax.linen": "flax",
    "eca_multi.flax.nnx": "flax",
    "eca_multi.ultralytics": "ultralytics",
}
CATCH = """
try:
    import {module}
except BaseException as error:
    print(type(error).__name__, error, sep="|")
"""


@pytest.mark.parametrize(("module", "package"), NEEDS.items())
def test_a_missing_framework_names_the_extra(module, package):
    done = python(BLOCK.format(package=package) + CATCH.format(module=module))
    remedy = f'Run: pip install "eca-multi[{package}]"'
    assert done.stdout.strip() == f"NotInstalled|{module} needs {package}, which is not installed. {remedy}"


@pytest.mark.parametrize(("module", "package"), NEEDS.items())
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import a_dependency", "ModuleNotFoundError|No module named 'a_dependency'"),
        ("import {package}.a_part", "ModuleNotFoundError|No module named '{package}.a_part'"),
        ("raise ImportError('libcudart.so.12: cannot open')", "ImportError|libcudart.so.12: cannot open"),
        ("raise OSError('undefined symbol')", "OSError|undefined symbol"),
    ],
    ids=["dependency", "part", "library", "symbol"],
)
def test_a_broken_framework_is_reported_as_it_is(tmp_path, module, package, body, said):
    folder = tmp_path / package
    folder.mkdir()
    folder.joinpath("__init__.py").write_text(body.format(package=package), encoding="utf-8")
    done = python("import sys\n" + CATCH.format(module=module), PYTHONPATH=str(tmp_path))
    assert done.stdout.strip() == said.format(package=package)


def test_keras_without_its_backend_is_not_called_missing():
    done = python(BLOCK.format(package="jax") + CATCH.format(module="eca_multi.keras"), KERAS_BACKEND="jax")
    assert done.stdout.strip().startswith("ModuleNotFoundError|No module named 'jax")


def test_flax_without_jax_is_not_called_missing():
    done = python(BLOCK.format(package="jax") + CATCH.format(module="eca_multi.flax.linen"))
    assert done.stdout.strip().startswith("ModuleNotFoundError|No module named 'jax")


@pytest.mark.parametrize("package", ["torch", "keras", "jax", "flax", "tensorflow"])
def test_the_floor_needs_no_framework(package):
    done = python(BLOCK.format(package=package) + f"import {', '.join(FLOOR)}; print('imported')")
    assert done.stdout.strip() == "imported", done.stderr
