"""The environment of all tests, and the frameworks on which each test runs.

Keras has one backend per process. `KERAS_BACKEND=jax pytest -m keras` runs the Keras tests on JAX; `make test` runs
them on all three backends.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator

# These must be set before the first import of a framework.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# For the processes that tests start; see pytest_configure.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
# The sharding tests need eight devices in one process, and JAX counts the devices once.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# nohup, and a shell that starts a job in the background, ignore some signals; processes that tests start would inherit
# that.
if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

import numpy as np
import pytest
import torch  # noqa: F401  (before TensorFlow: the other order has crashed)

from tests.support.frameworks import FRAMEWORKS

SHARED = "ECA_MULTI_TESTS_JAX_CACHE"  # names the folder in which the processes that tests start keep what JAX compiles


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """Compile JAX without most of XLA's optimisations, which take a third of the time of a test of JAX.

    The slow tests, `make parity` and all processes that tests start compile as users do; so do tests that ask for
    `optimised`, and not those that ask for `unoptimised`.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", not config.getoption("--slow"))
    # JAX has read its settings in this process by now: the tests' own programs are compiled anew.
    if SHARED not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="eca-tests-jax-")
        config.add_cleanup(folder.cleanup)
        os.environ[SHARED] = folder.name  # the processes of xdist inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ[SHARED]
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow tests unless `--slow` asks for them."""
    for item in items:
        if (on := item.get_closest_marker("slow_on")) and os.environ["KERAS_BACKEND"] in on.args:
            item.add_marker("slow")
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for `framework` on all frameworks, with the framework's name in the test's id."""
    if "framework" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        frameworks = [f for f in FRAMEWORKS if only is None or f.kind in only.args]
        marks = {"keras": [pytest.mark.keras]}
        metafunc.parametrize("framework", [pytest.param(f, id=f.name, marks=marks.get(f.kind, [])) for f in frameworks])


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Temporary files of the frameworks, such as the code that TensorFlow generates, go where pytest removes them."""
    folder = str(tmp_path_factory.mktemp("scratch"))
    os.environ["TMPDIR"] = tempfile.tempdir = folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the test's name, so that a test draws the same numbers alone and among others."""
    return np.random.default_rng(list(request.node.originalname.encode()))


def _with_optimisations(wanted: bool) -> Iterator[None]:
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", not wanted)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compile JAX with all of XLA's optimisations: for tests of what XLA makes of our code."""
    yield from _with_optimisations(True)


@pytest.fixture
def unoptimised() -> Iterator[None]:
    """Compile JAX without most of XLA's optimisations in a slow test too: for tests of which network is computed."""
    yield from _with_optimisations(False)
