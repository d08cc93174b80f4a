"""Readers of files that are not what they say: each ends in a documented error, soon, and in little memory.

One test for each kind that was found; tests/support/fuzz_readers.py looks for more of them.
"""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest
import torch

from eca_multi._parsing import parse_json, parsing
from eca_multi.checkpoints import CheckpointError, convert, detect, load_file, read_checkpoint, take, write_safetensors
from eca_multi.checkpoints.source import Stored, check_total, open_source
from eca_multi.networks import NETWORKS
from eca_multi.surgery.plan import ECAPlan
from tests.support import fuzz_readers
from tests.support.checkpoint_factory import random_weights

MIB = 1 << 20
OWN = {
    "torch": "eca_multi.torch.checkpoints",
    "keras": "eca_multi.keras.checkpoints",
    "linen": "eca_multi.flax.linen.checkpoints",
    "nnx": "eca_multi.flax.nnx.checkpoints",
}
FILES = {"torch": "model.pth", "keras": "model.weights.h5", "linen": "model.msgpack", "nnx": "model.msgpack"}
framework = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.keras] if n == "keras" else []) for n in OWN]
)


def own(name):
    return import_module(OWN[name]).read_checkpoint


@contextmanager
def bounded(seconds=5.0, memory=200 * MIB):
    """Fail if what is done takes longer, or more memory."""

    before = fuzz_readers.reset_peak()
    with fuzz_readers.limited(seconds):
        yield
    assert fuzz_readers.resident("VmHWM") - before < memory


def test_the_bounds_can_be_broken():
    with pytest.raises(fuzz_readers.TooSlow, match="too slow"), bounded(0.02):
        time.sleep(10)
    with pytest.raises(AssertionError, match="< 1048576"), bounded(memory=MIB):
        np.ones(4 * MIB)


def refused(path, read, match):
    with bounded(), pytest.raises(CheckpointError, match=match):
        read(path)


@pytest.fixture(scope="module")
def tiny():
    """Let a network of 120 kB be found, and return its weights."""
    fuzz_readers.add_tiny()
    yield random_weights(fuzz_readers.TINY, num_classes=2)
    del NETWORKS[fuzz_readers.TINY]


# --- the border ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexError("index out of range"), "index out of range"),
        (NotImplementedError("zip file version 9.9"), "zip file version 9.9"),
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
        (OverflowError("too large"), "too large"),
        (AssertionError(), "AssertionError"),
        (OSError("unable to open"), "unable to open"),
        (struct.error("unpack requires 8 bytes\nand more"), "unpack requires 8 bytes$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_parser_raises_becomes_one_error(error, text):
    with pytest.raises(CheckpointError, match=text) as info, parsing(CheckpointError):
        raise error
    assert info.value.__cause__ is error


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError(5, "Input/output error")])
def test_errors_of_the_system_pass(error):
    with pytest.raises(OSError, match=r"No such file|Input/output") as info, parsing(CheckpointError):
        raise error
    assert info.value is error


def test_an_error_that_says_all_passes():
    with pytest.raises(KeyError, match="mine"), parsing(CheckpointError, KeyError):
        raise KeyError("mine")
    with pytest.raises(KeyboardInterrupt, match="stop"), parsing(CheckpointError):
        raise KeyboardInterrupt("stop")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1e999", "1e999 is no finite number"),
        ("[NaN]", "NaN is no finite number"),
        ("-Infinity", "-Infinity is no finite number"),
        ("9" * 400, "a whole number of 400 digits"),
        (b"\xff", "decode byte"),
        ("{", "Expecting"),
    ],
)
def test_what_is_no_json(text, match):
    with pytest.raises(ValueError, match=match):
        parse_json(text)


# --- pickles -------------------------------------------------------------------------------------------------------

TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\r\x00\x00\x00little_endian\x88s."


def legacy(body: bytes) -> bytes:
    """A file of torch before 1.6 of one pickle, without storages."""
    return TORCH + b"\x80\x02" + body + b"." + b"\x80\x02]."


def archive(body: bytes, **members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, data in {"data.pkl": b"\x80\x02" + body + b".", "byteorder": b"little", **members}.items():
            file.writestr(f"m/{name.replace('__', '/')}", data)
    return made.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def tensor(shape, strides, offset=0, key="0", kind="FloatStorage", count=4) -> bytes:
    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )
    arguments = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


# Multiples of 2**61 - 1: all have one hash, and each would be compared with all before it.
ALIKE = [b"\x8a\x10" + (place * (2**61 - 1)).to_bytes(16, "little") for place in range(16, 40_000)]
DOUBLED = b")" + b"2\x86" * 40  # t = (t, t), forty times: 2**40 parts to hash or to print
PICKLES = {
    "a tuple in tuples as a key": b"}" + DOUBLED + b"\x88s",
    "a tuple in tuples as a key of many": b"}(" + DOUBLED + b"\x88u",
    "a tuple in tuples as a key of an OrderedDict": b"ccollections\nOrderedDict\n(]" + DOUBLED + b"\x88\x86atR",
    "keys of one hash": b"}(" + b"".join(key + b"N" for key in ALIKE) + b"u",
    "places in the memo of one hash": b"N" + b"".join(b"p%d\n" % (place * (2**61 - 1)) for place in range(16, 40_000)),
    "storages whose keys have one hash": b"]("
    + b"".join(
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + b"K\1tQ" for key in ALIKE[:25_000]
    )
    + b"e",
    "a tuple in tuples in a set": b"\x8f(" + DOUBLED + b"\x90",
    "a tuple in tuples in a frozenset": b"(" + DOUBLED + b"\x91",
    "a tuple in tuples among what we wrote": b"}" + text("eca_multi") + b"}" + text("x") + DOUBLED + b"ss",
    "a list in lists, with itself": b"]q\x00h\x00a",
    "a whole number of a megabyte": b"\x8b" + struct.pack("<i", MIB) + b"\x7f" * MIB,
    "bytes of an exabyte": b"\x8e" + struct.pack("<Q", 1 << 60),
    "an array of bytes of an exabyte": b"\x96" + struct.pack("<Q", 1 << 60),
    "text of four gigabytes": b"X\xff\xff\xff\xff",
    "a frame of an exabyte": b"\x95" + struct.pack("<Q", 1 << 60) + b"N",
    "a memo far away": b"Nr\xff\xff\xff\x7f",
    "a million lists": b"(" + b"]" * 400_000 + b"t",
    "tuples in tuples, 50,000 deep": b")" + b"\x85" * 50_000,
    "a number of NumPy without bytes": b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(" + text("f8") + b"tR\x85R",
    "an array of NumPy of any size": b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n("
    + text("V999999999")
    + b"tR\x85R",
    "a storage that is no storage": b"NQ",
    "nothing on the stack": b"R",
    "a mark that is missing": b"t",
    "a state for a namespace": b"cargparse\nNamespace\n)\x81(K\x01K\x02tb",
    "text that is no UTF-8": b"X\x01\x00\x00\x00\xff",
    "an opcode of old objects": b"(iposix\nsystem\n",
}


@pytest.mark.parametrize("wrap", [legacy, archive])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_lies(tmp_path, name, wrap):
    path = tmp_path / "model.pth"
    path.write_bytes(wrap(PICKLES[name]))
    refused(path, read_checkpoint, "path must name a|must hold a state dict")


def test_a_key_of_few_bytes_hangs_python_itself():
    """The file that found it has 267 bytes; Python's own unpickler shows that this one is of that kind."""
    body = b"\x80\x02" + PICKLES["a tuple in tuples as a key"] + b"."
    assert len(legacy(body)) < 267
    with pytest.raises(subprocess.TimeoutExpired, match="timed out"):
        subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({body!r})"], timeout=1)


def state(*tensors: bytes) -> bytes:
    """A state dict of a network's names, as far as there are tensors."""
    names = ("conv1.weight", "bn1.weight", "bn1.bias")
    return b"}" + b"".join(text(name) + tensor + b"s" for name, tensor in zip(names, tensors, strict=False))


TENSORS = {
    "expanded": (tensor((1 << 40,), (0,)), "expanded or overlaps itself"),
    "expanded to a convolution": (tensor((64, 3, 7, 7), (0, 0, 0, 0)), "expanded or overlaps itself"),
    "overlapping": (tensor((2, 3), (1, 1)), "expanded or overlaps itself"),
    "behind its storage": (tensor((5,), (1,)), "lies outside of the file"),
    "far behind its storage": (tensor((2,), (1,), offset=1 << 60), "lies outside of the file"),
    "before its storage": (tensor((2,), (1,), offset=-2), "begins before its storage"),
    "of a negative extent": (tensor((-1,), (1,)), "no list of extents"),
    "of a negative stride": (tensor((2,), (-1,)), "no steps forward"),
    "of too few strides": (tensor((2, 2), (1,)), "not as many as its axes"),
    "of many axes": (tensor((1,) * 100, (1,) * 100), "without a shape"),
    "of no storage": (tensor((1,), (1,), key="none"), "none"),
    "of an unknown storage": (tensor((1,), (1,), kind="EvilStorage"), "EvilStorage|Evil"),
    "of complex numbers": (tensor((1,), (1,), kind="ComplexFloatStorage"), "complex, quantised or of another dtype"),
    "without values": (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R", "_rebuild_meta_tensor_no_storage"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_lies(tmp_path, name):
    body, match = TENSORS[name]
    (tmp_path / "model.pth").write_bytes(archive(state(body), data__0=bytes(16)))
    refused(tmp_path / "model.pth", read_checkpoint, match)


def test_a_legacy_file_of_expanded_tensors(tmp_path):
    """torch wrote these itself: 9.5 GiB of a file of 40 kB."""
    torch.save(
        {name: torch.zeros(1).expand(1 << 20, 100, 4) for name in ("a", "b")},
        tmp_path / "model.pth",
        _use_new_zipfile_serialization=False,
    )
    refused(tmp_path / "model.pth", read_checkpoint, "expanded or overlaps itself")


def test_more_tensors_than_the_file_is_long(tmp_path):
    """Each lies in the file, and all of them at the same place."""
    body = b"}(" + b"".join(text(f"t{i}") + tensor((MIB // 4,), (1,)) for i in range(40)) + b"u"
    (tmp_path / "model.pth").write_bytes(archive(body, data__0=bytes(MIB)))
    refused(tmp_path / "model.pth", read_checkpoint, "bytes that claim to hold tensors of")


def test_storages_that_overlap_the_end(tmp_path):
    (tmp_path / "model.pth").write_bytes(
        TORCH + b"\x80\x02" + state(tensor((2,), (1,))) + b".\x80\x02](" + text("0") + b"e." + b"\xff" * 7 + b"\x7f"
    )
    refused(tmp_path / "model.pth", read_checkpoint, "storages that end behind the end of the file")


def test_harmless_content_is_read(tmp_path, tiny):
    """What training scripts keep beside the weights: the reader of pickles knows all of it."""
    beside = {
        "args": argparse.Namespace(lr=0.1, nested={"a": (1, 2)}),
        "best": np.float64(70.25),
        "loss": np.float32(0.5),
        "acc": torch.tensor(0.25),
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "betas": (0.9, 0.999),
        "keys": {(1, "a"): 2, 3: 4, None: 5},
        "set": {1, 2},
        "bytes": b"abc",
        "complex": 1j,
        "epoch": 7,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "sparse": torch.eye(2).to_sparse(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "dtypes": [value for value in vars(torch).values() if isinstance(value, torch.dtype)],
        "tensors": [torch.zeros(2, dtype=dtype) for dtype in (torch.uint16, torch.float8_e8m0fnu, torch.complex64)],
        (1, "a"): 2,
    }
    state = {name: torch.from_numpy(array) for name, array in tiny.items()}
    for zipped in (True, False):
        torch.save({"model": state, **beside}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(tmp_path / "m.pth")
        assert all(np.array_equal(checkpoint.weights[name], array) for name, array in tiny.items())
        facts = {"key": "model", "best": "70.25", "loss": "0.5", "acc": "0.25", "epoch": "7"}
        assert checkpoint.facts == facts


# --- archives ------------------------------------------------------------------------------------------------------


def changed_archive(data: bytes, offset: int, value: bytes) -> bytes:
    """Change a field in each entry of the directory of an archive."""
    changed, at = bytearray(data), -1
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        changed[at + offset : at + offset + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize("name", ["torch", pytest.param("keras", marks=pytest.mark.keras)])
@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (6, b"\x63\x00", "zip file version 9.9"),
        (8, b"\x01\x00", "encrypted|password"),
        (10, b"\x63\x00", "compress"),
        (42, b"\xff\xff\xff\x7f", "seek|Truncated|Bad magic|header|EOF|behind the end"),
        (20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f", "overlap"),
    ],
    ids=["version", "encrypted", "compression", "offset", "size"],
)
def test_an_archive_that_lies(tmp_path, name, offset, value, match):
    member = {"torch": "m/data.pkl", "keras": "model.weights.h5"}[name]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(member, b"}.")
    (tmp_path / "model").write_bytes(changed_archive(made.getvalue(), offset, value))
    refused(tmp_path / "model", own(name), match)
    refused(tmp_path / "model", read_checkpoint, "path must name a")


@pytest.mark.keras
def test_an_empty_keras_file(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    refused(tmp_path / "model.keras", own("keras"), "neither an archive nor HDF5")
    refused(tmp_path / "model.keras", read_checkpoint, "an empty file")


# --- HDF5 ----------------------------------------------------------------------------------------------------------


def h5(path, make):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv1"
        make(group)


def unwritten(group):
    for i in range(300):
        group.create_dataset(str(i), (2048, 2048), "f4", chunks=(64, 64))


def unallocated(group):
    group.create_dataset("0", (1 << 30,), "f4")


def packed(group):
    group.create_dataset("0", data=np.zeros(1 << 20), compression="gzip")


def text_dataset(group):
    group["0"] = ["a", "b"]


def cycle(group):
    group["0"] = group.file["layers"]


@pytest.mark.keras
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (unwritten, "is not stored in one piece"),
        (unallocated, "lies outside of the file"),
        (packed, "is not stored in one piece"),
        (text_dataset, "is no array of numbers"),
        (cycle, "is no dataset of its own"),
    ],
)
def test_datasets_that_lie(tmp_path, make, match):
    h5(tmp_path / "model.weights.h5", make)
    refused(tmp_path / "model.weights.h5", own("keras"), match)


@pytest.mark.keras
def test_datasets_at_one_place(tmp_path):
    """Each lies in the file; together they are 100 times as long."""
    h5(tmp_path / "m.weights.h5", lambda group: [group.create_dataset(str(i), data=np.ones(40_000)) for i in range(40)])
    data = (tmp_path / "m.weights.h5").read_bytes()
    places = set()
    with h5py.File(tmp_path / "m.weights.h5") as file:
        places = {dataset.id.get_offset() for dataset in file["layers/conv2d/vars"].values()}
    for place in places:
        data = data.replace(struct.pack("<QQ", place, 320_000), struct.pack("<QQ", min(places), 320_000))
    (tmp_path / "m.weights.h5").write_bytes(data[: max(places)] + bytes(320_000))
    with h5py.File(tmp_path / "m.weights.h5") as file:
        assert {dataset.id.get_offset() for dataset in file["layers/conv2d/vars"].values()} == {min(places)}
    size = os.path.getsize(tmp_path / "m.weights.h5")
    with open_source(tmp_path / "m.weights.h5") as source:
        one = source.tensor("<f8", (40_000,), min(places), size)
        with pytest.raises(ValueError, match="bytes that claim to hold tensors of"):
            check_total({str(i): one for i in range(400)}, size)


@pytest.mark.keras
def test_a_tree_that_holds_itself(tmp_path):
    """A node of HDF5's tree of names whose child is the node itself: the library ends the process or does not end."""
    h5(tmp_path / "m.weights.h5", lambda group: group.create_dataset("0", data=np.ones(4)))
    data = bytearray((tmp_path / "m.weights.h5").read_bytes())
    at = data.find(b"TREE")
    data[at + 5] = 1  # its level: its children are trees
    data[at + 32 : at + 40] = struct.pack("<Q", at)
    (tmp_path / "m.weights.h5").write_bytes(data)
    refused(tmp_path / "m.weights.h5", own("keras"), "a broken tree of names")


# --- msgpack -------------------------------------------------------------------------------------------------------


def packed_array(shape, dtype, data):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


MSGPACK = {
    "a key that is cut off": b"\x81\xd9",
    "lists of two billion": b"\x81\xa6params" + b"\xdd\x7f\xff\xff\xff" * 1000,
    "a shape without its data": msgpack.packb({"params": {"a": packed_array((1 << 40,), "float32", b"1234")}}),
    "too few bytes": msgpack.packb({"params": {"a": packed_array((3,), "float32", b"1234")}}),
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


# --- folders, JSON -------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000


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

    from eca_multi.flax._checkpoint_files import _tree
    from eca_multi.flax._network_weights import flatten, nest

    tree = _tree(take(tiny), collections=True)
    arrays = nest((route, place.array()) for route, place in flatten(tree))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as writer:
        writer.save(folder, {**arrays, **more})
    assert read_checkpoint(folder).found.network.name == fuzz_readers.TINY


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


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"crop_pct": 1e999}',
        '{"input_size": [1e999]}',
        '{"crop_pct": ' + "9" * 400 + "}",
        '{"input_size": {}}',
        "\ud800",
        '{"crop_pct": "nan"}',
        '{"input_size": [3, 7, -7]}',
        '{"input_size": [1e300]}',
        '{"std": [1, 1, 0]}',
        '{"mean": [0, "inf", 0]}',
    ],
    ids=[
        "deep",
        "infinite",
        "an infinite size",
        "a huge number",
        "no list",
        "half a character",
        "a text that is no number",
        "a negative size",
        "a huge size",
        "a std of 0",
        "an infinite mean",
    ],
)
def test_a_config_that_lies(tmp_path, tiny, text):
    from eca_multi.checkpoints import Hub, find_pretrained

    write_safetensors(tiny, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    if text == '{"input_size": {}}':  # says nothing
        assert find_pretrained(tmp_path, Hub()).preprocessing.size == 224
    else:
        refused(tmp_path, lambda path: find_pretrained(path, Hub()), r"config\.json must be as timm writes it")


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"schema": 1, "framework": "torch", "model": "Net", "gamma": 1e999}',
        '{"schema": 1, "framework": "torch", "model": "Net", "gamma": []}',
        '{"schema": 1, "framework": 3, "model": "Net"}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [[]]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "skipped": [3]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "skipped": {"a": 3}}',
        '{"schema": 1, "framework": "torch", "model": "Net", "notes": [{}]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [{"path": "a", "parameters": "many"}]}',
        '{"schema": 1, "framework": "torch", "model": "Net", "entries": [{"path": "a", "notes": "xx"}]}',
        b"\xff",
    ],
    ids=str,
)
def test_a_plan_that_lies(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with bounded(), pytest.raises(ValueError, match="plan must be the JSON of an ECAPlan"):
        ECAPlan.load(tmp_path / "plan.json")


def test_a_plan_that_names_a_site_twice(tmp_path):
    entry = {"path": "a.bn", "channels": 8, "notes": ["b", "b"]}
    text = json.dumps({"schema": 1, "framework": "torch", "model": "Net", "entries": [entry, entry]})
    (tmp_path / "plan.json").write_text(text)
    assert "a.bn: b" in str(ECAPlan.load(tmp_path / "plan.json"))


@pytest.mark.parametrize("text", [DEEP, '{"schema": 1e999}', "[]", '{"schema": 2}', b"\xff"], ids=str)
def test_a_report_and_a_bundle_that_lie(tmp_path, text):
    from eca_multi.parity import SpecError
    from eca_multi.parity.explain.bundle import read_bundle
    from eca_multi.parity.report.json import read_report

    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "bundle.json").write_bytes(data)
    with bounded(), pytest.raises(ValueError, match="must be a report of run --json"):
        read_report(tmp_path / "bundle.json")
    with bounded(), pytest.raises(SpecError, match="must be a complete bundle"):
        read_bundle(tmp_path)


HEADERS = {
    "deep": DEEP,
    "infinite": '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
    "a shape without its data": '{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}',
    "a negative place": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    "two at one place": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
    '"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    "a hole": '{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}',
    "no offsets": '{"a": {"dtype": "F32", "shape": [1]}}',
    "a list": "[1]",
    "metadata of numbers": '{"__metadata__": {"a": 1}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies(tmp_path, name):
    text = HEADERS[name].encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refused(path, load_file, r"path must name a complete \.safetensors file")
    if text[:1] == b"{":
        refused(path, read_checkpoint, r"path must name a complete \.safetensors file")


def test_a_header_of_many_tensors(tmp_path):
    """A hundred megabytes of them would take a minute: their number is looked at first, and not what each is."""
    header = json.dumps({str(i): {} for i in range(50_001)}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path / "model.safetensors", read_checkpoint, "50001 tensors, more than any network has")


def test_a_key_that_is_cut_off(tmp_path):
    (tmp_path / "file").write_bytes(b"\x81\xd9")
    refused(tmp_path / "file", detect, "of another format")


# --- what is declared, and what is there -----------------------------------------------------------------------------


def test_more_is_declared_than_the_file_can_hold():
    tensor = Stored((1 << 20,), np.dtype("f4"), lambda: np.empty(0))
    check_total({"a": tensor}, MIB)
    with pytest.raises(ValueError, match="1048576 bytes that claim to hold tensors of 8388608"):
        check_total({"a": tensor, "b": tensor}, MIB)
    check_total({"a": tensor, "b": tensor}, MIB, packed=True)
    with pytest.raises(ValueError, match="60000 tensors, more than any network has"):
        check_total({str(i): Stored((), np.dtype("f4"), lambda: np.empty(0)) for i in range(60_000)}, MIB)


# --- what is written to while it is read ---------------------------------------------------------------------------


def written(name, path, weights):
    import_module(OWN[name]).write_checkpoint(take(weights), path)
    return path


@pytest.fixture
def files(tmp_path, tiny, monkeypatch):
    from eca_multi.keras import networks

    monkeypatch.setattr(networks, fuzz_readers.TINY, networks._builder(fuzz_readers.TINY), raising=False)
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
from tests.support import fuzz_readers
from eca_multi.checkpoints import convert
fuzz_readers.add_tiny()
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


# --- the fuzzer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("seeds")
    fuzz_readers.make_seeds(folder)
    return folder


@pytest.mark.keras
def test_some_inputs_of_the_fuzzer(seeds, tmp_path):
    forms = [form for form in fuzz_readers.FORMS if form != "orbax"]  # its threads go on after an error: the slow test
    outcomes = [fuzz_readers.run_one(seeds, 0, index, forms, tmp_path) for index in range(200)]
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert {outcome.form for outcome in outcomes} == set(forms)
    assert sum(bool(outcome.error) for outcome in outcomes) > 80
    assert sum(not outcome.error for outcome in outcomes) > 20
    again = fuzz_readers.run_one(seeds, 0, 7, forms, tmp_path)
    assert (again.form, again.error, again.size) == (outcomes[7].form, outcomes[7].error, outcomes[7].size)


def test_every_seed_is_read(seeds):
    """What is changed was right before: else the fuzzer would try the first line of a reader alone."""
    for name, form in fuzz_readers.FORMS.items():
        for one in (seeds / name).iterdir():
            for read in form.readers:
                if one.name.startswith("few") and read is not fuzz_readers.read_canonical:
                    with pytest.raises(CheckpointError, match="must hold the tensors of a network"):
                        read(one)
                else:
                    read(one)


def raises(_):
    [][0]


def hangs(_):
    while True:
        pass


def allocates(path):
    np.ones(1 << 25)


def swallows(path):
    try:
        raise MemoryError
    except MemoryError as error:
        raise CheckpointError("broken") from error


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (raises, "IndexError"),
        (hangs, "too slow"),
        (allocates, "bytes of memory"),
        (swallows, "MemoryError"),
    ],
)
def test_the_fuzzer_finds_what_is_planted(tmp_path, monkeypatch, read, fault):
    monkeypatch.setattr(fuzz_readers, "SECONDS", 1.0)
    (tmp_path / "file").write_bytes(b"x")
    assert fault in fuzz_readers.try_reader(read, tmp_path / "file", fuzz_readers.PLAIN).fault


@pytest.mark.slow
def test_ten_thousand_inputs(tmp_path):
    done = subprocess.run(
        [sys.executable, fuzz_readers.__file__, "--inputs", "10000", "--seed", "0"], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "10000 inputs, 0 findings" in done.stdout
