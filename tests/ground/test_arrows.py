"""The contracts that import-linter holds: kept as the package stands, broken by one import that points up or across."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

VIOLATIONS = [
    ("torch/layers.py", "import keras", "eca_multi.torch imports torch alone"),
    ("keras/weights.py", "import jax", "eca_multi.keras imports keras alone"),
    ("keras/layers.py", "import eca_multi.torch._fast.fused", "eca_multi.keras imports keras alone"),
    ("keras/_backends.py", "import eca_multi.torch.layers", "eca_multi.keras imports keras alone"),
    ("keras/_backends.py", "import eca_multi.jax.functional", "eca_multi.keras imports keras alone"),
    ("jax/functional.py", "import flax", "eca_multi.jax imports jax alone"),
    ("flax/linen/layers.py", "import torch", "eca_multi.flax imports flax and jax alone"),
    ("flax/linen/weights.py", "import eca_multi.flax.nnx", "linen and nnx do not know each other"),
    ("_kernel.py", "import torch", "The ground floor imports no framework"),
    ("_errors.py", "import eca_multi.reference", "Arrows point down only"),
    ("parity/run.py", "import eca_multi.parity.engines.torch", "The harness names its engines"),
]


@pytest.fixture
def lint(tmp_path):
    """Run import-linter on a copy of the package."""
    shutil.copytree(ROOT / "eca_multi", tmp_path / "eca_multi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def run() -> str:
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    return run


def test_the_package_keeps_its_contracts(lint):
    assert " 0 broken" in lint()


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS, ids=[f"{v[0]}-{v[1]}" for v in VIOLATIONS])
def test_a_wrong_import_breaks_its_contract(lint, tmp_path, file, line, contract):
    path = tmp_path / "eca_multi" / file
    path.write_text(path.read_text() + f"\n\ndef _late() -> None:\n    {line}\n")
    broken = [text for text in lint().splitlines() if " BROKEN" in text]
    assert any(text.startswith(contract) for text in broken), broken
