"""The way to the Triton kernels, and their own tests and compilation, each in a process of its own.

Triton is no part of the development environment: it takes 0.7 GB, and `import triton` after TensorFlow crashes.
To run what is skipped: .venv/bin/pip install -c constraints.txt triton
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from eca_multi.torch._fast import triton_route

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed, see the docstring")


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=600,
    )


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_route._is_installed.cache_clear()
    yield monkeypatch
    triton_route._is_installed.cache_clear()


@pytest.mark.parametrize("switch", ["1", "0"])
def test_nothing_is_served_without_triton(switch, without_triton):
    without_triton.setenv("ECA_MULTI_TRITON", switch)
    assert not triton_route.available(torch.ones(2, 4, 3))


def test_a_triton_that_lacks_a_part_is_reported_as_it_is(without_triton, tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("import a_part_of_triton\n", encoding="utf-8")
    without_triton.delitem(sys.modules, "triton")
    without_triton.syspath_prepend(tmp_path)
    without_triton.setenv("ECA_MULTI_TRITON", "1")
    with pytest.raises(ModuleNotFoundError, match="a_part_of_triton"):
        triton_route.available(torch.ones(2, 4, 3))


LOADED = """
import sys, torch
from eca_multi.torch._fast import triton_route
x = torch.ones(2, 4, 3)
served = triton_route.available(x)
if served:
    triton_route.forward(x, torch.ones(1, 1, 3), "zeros", "sigmoid")
print(served)
print("triton" in sys.modules, "eca_multi::forward" in torch._C._dispatch_get_all_op_names())
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("switch", "said"), [("0", "False False False"), ("1", "True True True")], ids=["off", "on"])
def test_triton_is_imported_and_operators_registered_on_demand(switch, said):
    done = python("-c", LOADED, ECA_MULTI_TRITON=switch, TRITON_INTERPRET="1")
    assert done.stdout.split() == said.split(), done.stderr


@needs_triton
@pytest.mark.slow
def test_the_kernels_in_the_interpreter():
    """No conftest: it imports TensorFlow."""
    done = python("-m", "pytest", "--noconftest", "-q", "tests/support/triton_torch.py", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu():
    """The interpreter takes more than the compiler does, and the compiler needs no GPU."""
    done = python("tests/support/triton_compile.py", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["forward_kernel", "backward_kernel"] * 4
