"""HDF5 that is not what it says."""

import os
import struct

import h5py
import numpy as np
import pytest

from eca_multi.checkpoints.source import open_source
from eca_multi.checkpoints.stored import check_total
from tests.support.reading import own, refused


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
