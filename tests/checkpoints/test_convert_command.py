"""`eca-multi convert`: output, errors, the progress bar."""

import subprocess
import sys
from pathlib import Path

import pytest

from eca_multi.checkpoints import load_file
from tests.support.checkpoint_factory import (
    TARGETS,
)
from tests.support.converting import ARCH, run


def test_the_command(tmp_path, files):
    done = run(files("timm"), tmp_path / "a.safetensors", "--to", "canonical", "--arch", ARCH)
    assert done.exit_code == 0, done.output
    assert "network  eca_resnet18, 5 classes" in done.stdout
    assert done.stderr == ""
    assert len(load_file(tmp_path / "a.safetensors")) == 110


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["SOURCE", "a.safetensors", "--to", "flax"], "to must be torch, keras, linen, nnx or canonical"),
        (["SOURCE", "a.safetensors", "--to", "torch", "--arch", "eca_resnet50"], "It is of eca_resnet18."),
        (["SOURCE", "a.bin", "--to", "torch"], "path must end in"),
        (["SOURCE", "none/a.pth", "--to", "torch"], "target must be in a folder that exists"),
        (["none.pth", "a.pth", "--to", "torch"], "No such file or directory"),
        (["SOURCE", "a.pth", "--to", "torch", "--key", "none"], "at 'none'"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path, files, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = run(*[arg.replace("SOURCE", str(files("timm"))) for arg in args])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bar_on_large_files(tmp_path, files, monkeypatch):
    monkeypatch.setattr("eca_multi.cli.convert._LARGE", 1 << 20)
    done = run(files("timm"), tmp_path / "a.safetensors", "--to", "canonical")
    assert done.exit_code == 0, done.output
    assert "Writing" in done.stderr
    assert "network" in done.stdout


def test_a_framework_that_is_not_installed(tmp_path, files):
    code = (
        "import sys; sys.modules['torch'] = None\nfrom eca_multi.__main__ import main\n"
        f"sys.argv = ['eca-multi', 'convert', {str(files('canonical'))!r}, 'a.pth', '--to', 'torch']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().endswith('Run: pip install "eca-multi[torch]"')


def test_the_page_lists_what_can_be_written():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    for to, suffixes in TARGETS.items():
        listed = " ".join(row[2] for row in rows if f"`{to}`" in row[1])
        assert all((f"`{suffix}`" if suffix else "folder") in listed for suffix in suffixes), to
