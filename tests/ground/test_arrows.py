"""The contracts of import-linter: the package keeps them, and one wrong import breaks each of them."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]

VIOLATIONS = [  # file, import, contract
    ("_errors.py", "eca_multi.reference", "Arrows point down only"),
    ("surgery/__init__.py", "eca_multi.parity", "Arrows point down only"),
    ("parity/define/__init__.py", "eca_multi.parity.judge", "The stages of the harness"),
    ("parity/judge/__init__.py", "eca_multi.parity.explain", "The stages of the harness"),
    ("parity/execute/__init__.py", "eca_multi.parity.report", "The stages of the harness"),
    ("flax/linen/weights.py", "eca_multi.flax.nnx", "linen and nnx do not know each other"),
    ("_kernel.py", "torch", "The ground floor imports no framework"),
    ("surgery/plan.py", "jax", "The ground floor imports no framework"),
    ("torch/layers.py", "keras", "eca_multi.torch imports torch alone"),
    ("torch/surgery/__init__.py", "jax", "eca_multi.torch imports torch alone"),
    ("ultralytics/load.py", "eca_multi.keras", "eca_multi.ultralytics imports ultralytics and torch alone"),
    ("keras/weights.py", "jax", "eca_multi.keras imports keras alone"),
    ("keras/layers.py", "eca_multi.torch.functional", "eca_multi.keras imports keras alone"),
    ("keras/_backends.py", "eca_multi.torch.layers", "eca_multi.keras imports keras alone"),
    ("keras/_backends.py", "eca_multi.jax.functional", "eca_multi.keras imports keras alone"),
    ("jax/functional.py", "flax", "eca_multi.jax imports jax alone"),
    ("flax/linen/layers.py", "torch", "eca_multi.flax imports flax and jax alone"),
    ("cli/main.py", "torch", "The harness names its engines and does not import them"),
    ("parity/judge/__init__.py", "jax", "The harness names its engines and does not import them"),
    ("surgery/plan.py", "eca_multi.surgery.choose", "No circles of imports"),
    ("torch/functional.py", "eca_multi.torch.layers", "No circles of imports"),
]


def broken(output: str) -> dict[str, str]:
    """What import-linter says of each broken contract, by the contract's name."""
    _, _, details = output.partition("Broken contracts\n")
    parts = re.split(r"\n([^\n]+)\n-{3,}\n", details)
    return {name: re.sub(r"\s+", " ", text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def lint(folder: Path) -> dict[str, str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return broken(done.stdout)


def copy_of_the_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "eca_multi", folder / "eca_multi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_package_keeps_its_contracts(tmp_path):
    assert lint(copy_of_the_package(tmp_path)) == {}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """What is broken in a copy of the package that has all the wrong imports."""
    folder = copy_of_the_package(tmp_path_factory.mktemp("faulty"))
    for file, name, _ in VIOLATIONS:
        with (folder / "eca_multi" / file).open("a", encoding="utf-8") as source:
            source.write(f"\n\ndef _late() -> None:\n    import {name}\n")
    return lint(folder)


@pytest.mark.parametrize(("file", "name", "contract"), VIOLATIONS, ids=[f"{v[0]}-{v[1]}" for v in VIOLATIONS])
def test_a_wrong_import_breaks_its_contract(faulty, file, name, contract):
    module = "eca_multi." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if contract == "No circles of imports":  # which names packages, and one import of a circle to remove
        assert f"No cycles are allowed in {module.rpartition('.')[0]}." in faulty[contract]
    else:
        assert f"{module} -> {name} " in faulty[contract]


def test_each_contract_has_a_wrong_import():
    assert {contract for *_, contract in VIOLATIONS} == {contract["name"] for contract in CONTRACTS}
