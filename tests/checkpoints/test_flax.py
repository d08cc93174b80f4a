"""Files of Flax that are not what they say: each is refused with one error, quickly, and nothing of it is run."""

import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
from flax import serialization

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.take import take
from eca_multi.flax.linen import checkpoints as linen
from eca_multi.flax.nnx import checkpoints as nnx
from tests.support.checkpoint_factory import linen_msgpack, orbax_folder, random_weights

KERNEL = serialization.msgpack_serialize(np.zeros((7, 7, 3, 64), np.float32))


def array(shape, dtype, data):
    """An array as Flax packs it, whatever it claims."""
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


HOSTILE = {
    "a map of four billion entries": b"\xdf\xff\xff\xff\xff\xa6params\x80",
    "a string of four gigabytes": b"\x81\xdb\xff\xff\xff\xffparams",
    "bytes of four gigabytes": b"\x81\xa6params\xc6\xff\xff\xff\xffabc",
    "an array of Python objects": msgpack.packb({"params": {"conv1": {"kernel": array((1,), "object", b"12345678")}}}),
    "a shape without its data": msgpack.packb({"params": {"conv1": {"kernel": array((7, 7, 3, 64), "float32", b"")}}}),
    "a negative shape": msgpack.packb({"params": {"conv1": {"kernel": array((-1, 7), "float32", b"1234")}}}),
    "a shape of any size": msgpack.packb({"params": {"conv1": {"kernel": array((1 << 40, 1 << 20), "float32", b"")}}}),
    "an unknown extension": msgpack.packb({"params": {"conv1": {"kernel": msgpack.ExtType(99, b"code")}}}),
    "one tensor alone": b"\x81\xa6params\x81\xa5conv1\x81\xa6kernel" + KERNEL,
    "no map": msgpack.packb([1, 2, 3]),
    "a number": msgpack.packb(7),
    "text for a collection": msgpack.packb({"params": "none"}),
    "what follows the end": msgpack.packb({"params": {}}) + b"\xc0",
    "maps within maps": b"\x81\xa1a" * 100_000 + b"\x80",
    "nothing": b"",
}


@pytest.mark.parametrize("read", [linen.read_checkpoint, nnx.read_checkpoint], ids=["linen", "nnx"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_lies_is_refused(read, name, tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"must name a complete .msgpack file|must hold the tensors of a network"):
        read(path)
    assert path.read_bytes() == HOSTILE[name]


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.001])
def test_a_truncated_file_is_refused(kept, tmp_path):
    path = tmp_path / "model.msgpack"
    linen_msgpack(random_weights("eca_resnet18", num_classes=2), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=r"must name a complete .msgpack file"):
        linen.read_checkpoint(path)


def test_a_missing_file_is_said_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.msgpack"):
        linen.read_checkpoint(tmp_path / "none.msgpack")


def test_a_folder_that_orbax_did_not_write_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="a folder without orbax's _METADATA"):
        nnx.read_checkpoint(tmp_path / "folder")


@pytest.mark.parametrize("write", [linen.write_checkpoint, nnx.write_checkpoint], ids=["linen", "nnx"])
def test_another_formats_suffix_is_refused(write, tmp_path):
    checkpoint = take(random_weights("eca_resnet18", num_classes=2))
    with pytest.raises(ValueError, match=r"path must end in \.msgpack, or name a folder"):
        write(checkpoint, tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [linen.write_checkpoint, nnx.write_checkpoint], ids=["linen", "nnx"])
def test_a_folder_of_anything_else_is_not_replaced(write, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.py").write_text("mine")
    with pytest.raises(FileExistsError, match=r"path must name a new folder.*holds 'train\.py'.*Name another folder"):
        write(take(random_weights("eca_resnet18", num_classes=2)), tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "train.py"]


@pytest.mark.parametrize(
    ("write", "read", "there"),
    [
        pytest.param(linen.write_checkpoint, linen.read_checkpoint, {"a": np.ones(3)}, id="linen"),
        pytest.param(nnx.write_checkpoint, nnx.read_checkpoint, None, id="nnx"),
    ],
)
def test_a_checkpoint_of_orbax_is_replaced_in_its_place(write, read, there, tmp_path):
    """Whoever wrote it, in whatever form: permissions and links stay, and what comes in meanwhile is not lost."""
    folder, link = tmp_path / "there" / "checkpoint", tmp_path / "link"
    weights = random_weights("eca_resnet18", num_classes=2)
    folder.parent.mkdir()
    folder.mkdir() if there is None else orbax_folder(there, folder)
    folder.chmod(0o2750)
    link.symlink_to(folder)
    write(take(weights), link, {"source": "mine"})
    checkpoint = read(link)
    assert checkpoint.facts["source"] == "mine"
    assert all(np.array_equal(checkpoint.weights[name], array) for name, array in weights.items())
    assert link.is_symlink()
    assert folder.stat().st_mode & 0o7777 == 0o2750
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"also holds 'notes\.txt'"):
        write(take(weights), link)
    assert (folder / "notes.txt").read_text() == "mine"
    assert list(folder.parent.iterdir()) == [folder]


FULL = """
import resource, sys
from tests.support.checkpoint_factory import random_weights
from eca_multi.checkpoints.take import take
from eca_multi.flax.linen.checkpoints import write_checkpoint
checkpoint = take(random_weights("eca_resnet18", num_classes=2))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # a disk for files of a megabyte
try:
    write_checkpoint(checkpoint, sys.argv[1])
except OSError as error:
    sys.stdout.write(f"OSError {error}")
"""


@pytest.mark.slow
def test_a_full_disk_is_said_as_such(tmp_path):
    """tensorstore says it with a ValueError of its own."""
    run = [sys.executable, "-c", FULL, tmp_path / "made"]
    done = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == f"OSError [Errno 27] File too large: {str(tmp_path / 'made')!r}", done.stderr
    assert list(tmp_path.iterdir()) == []
