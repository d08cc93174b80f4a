"""Which frameworks the tests run on, and what must be set before any of them is imported.

Keras has one backend per process: `KERAS_BACKEND=jax pytest -m keras` runs its tests on another one; `make test` runs
them on all three.
"""

import os
import re
import signal
import threading
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Eight devices in one process, for the sharding tests; set before JAX counts them.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# Under nohup, or in the background of a shell, some signals are ignored, and so they would be in what the tests start.
if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

import pytest
import torch  # noqa: F401  (before TensorFlow: the other order has crashed)

from tests.support.frameworks import FRAMEWORKS, Framework


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m keras` imports no file that has none of its tests: the frameworks take a while."""
    if config.option.markexpr != "keras" or not collection_path.match("test_*.py"):
        return None
    return True if not re.search("keras|framework", collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (on := item.get_closest_marker("slow_on")) and os.environ["KERAS_BACKEND"] in on.args:
            item.add_marker("slow")
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that asks for `framework` all of them, with the framework in the test's id."""
    if "framework" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("only")
        chosen = [f for f in FRAMEWORKS if wanted is None or f.kind in wanted.args]
        params = [pytest.param(f, id=f.name, marks=[pytest.mark.keras] if f.kind == "keras" else []) for f in chosen]
        metafunc.parametrize("framework", params)


@pytest.fixture
def rng(request: pytest.FixtureRequest):
    import numpy as np

    return np.random.default_rng(list(request.node.originalname.encode()))


__all__ = ["Framework"]
