"""Files of torch that are not what they say: each ends in a documented error, soon, and in little memory."""

import argparse
import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from eca_multi.checkpoints import read_checkpoint
from tests.support.reading import MIB, own, refused

# --- pickles ---------------------------------------------------------------------------------------------------------


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


# --- archives --------------------------------------------------------------------------------------------------------


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
