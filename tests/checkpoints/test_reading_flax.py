"""Files and folders of Flax that are not what they say."""

import json
import os
import struct
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest

from eca_multi.checkpoints import read_checkpoint
from eca_multi.checkpoints.take import take
from tests.support import fuzz_seeds
from tests.support.reading import DEEP, framework, own, refused

# --- msgpack ---------------------------------------------------------------------------------------------------------


def packed_array(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


MSGPACK = {
    "a key that is cut off": b"\x81\xd9",
    "lists of two billion": b"\x81\xa6params" + b"\xdd\x7f\xff\xff\xff" * 1000,
    "a shape without its data": msgpack.packb({"params": {"a": packed_array((1 << 40,), "float32", b"1234")}}),
    "too few bytes": msgpack.packb({"params": {"a": packed_array((3,), "float32", b"1234")}}),
    "too many bytes": msgpack.packb({"params": {"a": packed_array((3,), "float16", b"12345678")}}),
    "maps within maps": b"\x81\xa1a" * 100_000 + b"\x80",
    "lists within lists": b"\x81\xa6params" + b"\x91" * 100_000 + b"\x80",
    "keys that are maps": b"\x81\x80\x80",
    "many values": b"\x81\xa6params\xdd" + struct.pack(">I", 300_000) + b"\xc0" * 300_000,
    "a shape of text": msgpack.packb({"params": {"a": packed_array("ab", "float32", b"1234")}}),
    "the byte that msgpack does not have": b"\x81\xa6params\xc1",
}


@pytest.mark.parametrize("flax", ["linen", "nnx"])
@pytest.mark.parametrize("name", MSGPACK)
def test_msgpack_that_lies(tmp_path, flax, name):
    path = tmp_path / "model.msgpack"
    path.write_bytes(MSGPACK[name])
    refused(path, own(flax), r"must name a complete \.msgpack file")
    refused(path, read_checkpoint, "path must name a")


# --- folders, JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"tree_metadata": ' + DEEP,
        '{"tree_metadata": 1e999}',
        '{"tree_metadata": {"a": {"key_metadata": ' + json.dumps([{"key": "a", "key_type": 2}] * 5000) + "}}}",
        "{}",
        "[]",
    ],
    ids=["deep", "deep inside", "infinite", "a long path", "empty", "a list"],
)
def test_a_folder_whose_metadata_lie(tmp_path, text):
    (tmp_path / "_METADATA").write_text(text)
    refused(tmp_path, own("linen"), "must name a complete")
    refused(tmp_path, read_checkpoint, "path must name a")


def write_folder(tiny, folder, *, ocdbt, **more):
    import orbax.checkpoint as ocp

    from eca_multi.flax._formats.network import _tree
    from eca_multi.flax._network_weights import flatten, nest

    tree = _tree(take(tiny), collections=True)
    arrays = nest((route, array()) for route, array in flatten(tree))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as writer:
        writer.save(folder, {**arrays, **more})
    assert read_checkpoint(folder).found.network.name == fuzz_seeds.TINY


@pytest.mark.parametrize(
    "forged",
    [{"shape": [8000, 8000], "chunks": [8000, 8000]}, {"chunks": [64_000_000]}],
    ids=["an array that is not asked for", "a chunk larger than its array"],
)
def test_a_folder_of_more_than_it_is_long(tmp_path, tiny, forged):
    """All arrays are restored at once, an optimizer's state too; a chunk is decoded whole."""
    folder = tmp_path / "model"
    write_folder(tiny, folder, ocdbt=False, opt_state={"mu": np.zeros(3, np.float32)})
    zarray = folder / "opt_state.mu" / ".zarray"
    content = {**json.loads(zarray.read_text()), **forged, "compressor": {"id": "zlib", "level": 1}}
    zarray.write_text(json.dumps(content))
    for chunk in zarray.parent.glob("[0-9]*"):
        chunk.unlink()
    (zarray.parent / ".".join("0" * len(content["shape"]))).write_bytes(zlib.compress(bytes(256_000_000), 1))
    refused(folder, read_checkpoint, "bytes that claim to hold tensors of")


@pytest.mark.parametrize("ocdbt", [True, False], ids=["in a database", "in a file"])
def test_a_folder_whose_arrays_are_described_deeply(tmp_path, tiny, ocdbt):
    """tensorstore, which is asked otherwise, ends the process by SIGSEGV."""
    import tensorstore

    folder = tmp_path / "model"
    write_folder(tiny, folder, ocdbt=ocdbt)
    files = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": files} if ocdbt else files).result()
    key = min(key for key in store.list().result() if key.endswith(b"/.zarray"))
    content = json.loads(store.read(key).result().value)
    for depth in (40, 100_000):
        text = json.dumps({**content, "compressor": "@"}).replace('"@"', '{"id":' + "[" * depth + "]" * depth + "}")
        store.write(key, text.encode()).result()
        refused(folder, read_checkpoint, "nested too deeply")


def test_a_folder_with_a_pipe_for_its_tree(tmp_path):
    os.mkfifo(tmp_path / "_METADATA")
    refused(tmp_path, own("linen"), "_METADATA is no file")


def test_a_folder_with_a_pipe(tmp_path):
    (tmp_path / "_METADATA").write_text('{"tree_metadata": {"a": {"key_metadata": [{"key": "a", "key_type": 2}]}}}')
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path, own("nnx"), "pipe is no file")


@framework
def test_a_pipe_and_a_device(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        refused(path, own(name), "a pipe or a device")
        refused(path, read_checkpoint, "a pipe or a device")
