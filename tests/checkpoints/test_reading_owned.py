"""What is read is owned; a file that is changed meanwhile is refused, and so is more than it can hold."""

import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from eca_multi.checkpoints import CheckpointError, convert
from eca_multi.checkpoints.safetensors import write_safetensors
from eca_multi.checkpoints.source import open_source
from eca_multi.checkpoints.stored import Stored, check_total
from eca_multi.checkpoints.take import take
from tests.support import fuzz_seeds
from tests.support.reading import FILES, MIB, OWN, framework, own

# --- what is declared, and what is there -----------------------------------------------------------------------------


def test_more_is_declared_than_the_file_can_hold():
    tensor = Stored((1 << 20,), np.dtype("f4"), lambda: np.empty(0))
    check_total({"a": tensor}, MIB)
    with pytest.raises(ValueError, match="1048576 bytes that claim to hold tensors of 8388608"):
        check_total({"a": tensor, "b": tensor}, MIB)
    check_total({"a": tensor, "b": tensor}, MIB, packed=True)
    with pytest.raises(ValueError, match="60000 tensors, more than any network has"):
        check_total({str(i): Stored((), np.dtype("f4"), lambda: np.empty(0)) for i in range(60_000)}, MIB)


# --- what is written to while it is read -----------------------------------------------------------------------------


def written(name, path, weights):
    import_module(OWN[name]).write_checkpoint(take(weights), path)
    return path


@pytest.fixture
def files(tmp_path, tiny, monkeypatch):
    from eca_multi.keras import networks

    monkeypatch.setattr(networks, fuzz_seeds.TINY, networks._builder(fuzz_seeds.TINY), raising=False)
    return lambda name: written(name, tmp_path / FILES[name], tiny)


@framework
def test_weights_are_owned(files, tiny, name):
    """A trainer that overwrites its file in place, or cuts it off, changes nothing that was read."""
    path = files(name)
    checkpoint = own(name)(path)
    with open(path, "r+b") as file:
        file.truncate(100)
    for key, array in tiny.items():
        assert np.array_equal(checkpoint.weights[key], array)
        assert checkpoint.weights[key].flags.writeable


@framework
def test_weights_can_be_mapped(files, tiny, name):
    """The other way has its use, and its danger is documented: what is written to the file is seen in the arrays."""
    path = files(name)
    mapped = own(name)(path, mmap=True)
    assert all(np.array_equal(mapped.weights[key], array) for key, array in tiny.items())
    data = path.read_bytes()
    value = tiny["fc.bias"].tobytes()
    assert data.count(value) == 1
    with open(path, "r+b") as file:
        file.seek(data.find(value))
        file.write(np.full_like(tiny["fc.bias"], 7).tobytes())
    assert (mapped.weights["fc.bias"] == 7).all()
    assert "ends the process" in own(name).__doc__


def test_a_file_that_is_cut_off_while_it_is_converted(tmp_path, tiny):
    """In a process of its own: what is mapped ends it by SIGBUS."""
    write_safetensors(tiny, tmp_path / "model.safetensors")
    code = """
import os, sys
from tests.support import fuzz_readers, fuzz_seeds
from eca_multi.checkpoints import convert
fuzz_seeds.add_tiny()
def cut(what, done, total):
    if what == "write":
        os.truncate("model.safetensors", 5000)
try:
    convert("model.safetensors", "new.safetensors", to="canonical", progress=cut)
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "CheckpointError the checkpoint must stay as it is while it is read" in done.stdout
    assert not (tmp_path / "new.safetensors").exists()


def test_a_file_that_is_written_to_while_it_is_read(tmp_path, tiny):
    path = tmp_path / "model.safetensors"
    write_safetensors(tiny, path)
    with pytest.raises(CheckpointError, match="which was written to meanwhile"), open_source(path):
        os.utime(path, ns=(1, 1))
    changes = iter(range(1, 10**6))

    def touch(*_):
        os.utime(path, ns=(next(changes), next(changes)))

    with pytest.raises(CheckpointError, match="which was written to meanwhile"):
        convert(path, tmp_path / "new.safetensors", to="canonical", progress=touch)
