"""Files that Keras wrote: read in place, written whole or not at all; nothing in them is made or run."""

import json
import os
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from eca_multi.checkpoints import CheckpointError
from eca_multi.checkpoints.take import take
from eca_multi.keras import eca_resnet18, from_canonical, networks, to_canonical
from eca_multi.keras.checkpoints import read_checkpoint, write_checkpoint
from eca_multi.networks import find, tensors
from tests.support.networks_keras import BACKEND, TINY, build, run, small_networks

pytestmark = pytest.mark.keras

suffixes = pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])


@pytest.fixture(scope="module", autouse=True)
def tables():
    with small_networks(networks):
        yield


@pytest.fixture(scope="module")
def model():
    """With an optimizer's state and dropout's random state, which are no weights of the network."""
    keras.utils.set_random_seed(0)
    model = build("tiny_basic", num_classes=3, drop_path=0.1)
    rng = np.random.default_rng(0)
    weights = {
        key: array + rng.uniform(0.1, 0.2, array.shape).astype("f4") for key, array in to_canonical(model).items()
    }
    model.compile("adam", "mse")
    return from_canonical(model, weights)


@pytest.fixture(params=[".keras", ".weights.h5"])
def saved(request, model, tmp_path):
    path = tmp_path / f"model{request.param}"
    save(model, path)
    return path


def save(model, path):
    model.save(path) if path.suffix == ".keras" else model.save_weights(path)


def arrays_of(name, seed=0, **options):
    rng = np.random.default_rng(seed)
    listed = tensors(find(name), **options).items()
    return {key: rng.uniform(0.5, 1.5, tensor.shape).astype("f4") for key, tensor in listed}


def assert_same(checkpoint, weights):
    assert list(checkpoint.weights) == list(weights)
    assert all(np.array_equal(checkpoint.weights[name], weights[name]) for name in weights)


# --- reading -------------------------------------------------------------------------------------------------------


def test_what_keras_saved(saved, model):
    checkpoint = read_checkpoint(saved)
    assert_same(checkpoint, to_canonical(model))
    assert checkpoint.found.network is TINY["tiny_basic"]
    assert checkpoint.found.options == {
        "num_classes": 3,
        "in_channels": 3,
        "kernel_sizes": [3, 5, 5],
        "features_only": False,
        "dims": 2,
    }
    assert set(checkpoint.facts) == ({"keras_version", "date_saved"} if saved.suffix == ".keras" else set())


def test_arrays_can_be_views_of_the_file(saved):
    assert read_checkpoint(saved).weights["fc.bias"].flags.writeable
    array = read_checkpoint(saved, mmap=True).weights["fc.bias"]
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)
    assert Path(array.filename) == saved


@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.parametrize("dims", [1, 2])
def test_every_kind_of_network(tmp_path, name, dims):
    network = build(name, dims=dims, num_classes=4, in_channels=2, kernel_sizes=[7, 9])
    network.save_weights(tmp_path / "model.weights.h5")
    checkpoint = read_checkpoint(tmp_path / "model.weights.h5")
    assert_same(checkpoint, to_canonical(network))
    assert (checkpoint.found.dims, checkpoint.found.in_channels, checkpoint.found.kernel_sizes[0]) == (dims, 2, 7)


@(pytest.mark.slow if BACKEND == "jax" else pytest.mark.keras)
def test_a_trained_network_and_a_clone(tmp_path, model):
    """An optimizer's state has arrays of the same shapes, and clones have other numbers in Keras's names."""
    clone = keras.models.clone_model(model)
    clone.compile("adam", "mse", run_eagerly=BACKEND != "jax")
    clone.train_on_batch(np.ones((2, 16, 16, 3), "f4"), np.ones((2, 3), "f4"))
    clone.save(tmp_path / "clone.keras")
    assert_same(read_checkpoint(tmp_path / "clone.keras"), to_canonical(clone))


def test_bfloat16(tmp_path):
    network = build("tiny_mobile", num_classes=2, dtype="bfloat16")
    network.save(tmp_path / "model.keras")
    checkpoint = read_checkpoint(tmp_path / "model.keras")
    assert checkpoint.weights["classifier.1.bias"].dtype == np.float32
    assert_same(checkpoint, to_canonical(network))


def test_another_number_of_classes(saved, model):
    checkpoint = read_checkpoint(saved)
    other = build("tiny_basic", num_classes=5)
    before = to_canonical(other)
    after = to_canonical(from_canonical(other, {**before, **checkpoint.backbone()}))
    assert np.array_equal(after["fc.weight"], before["fc.weight"])
    assert np.array_equal(after["layer2.0.conv1.weight"], to_canonical(model)["layer2.0.conv1.weight"])


def test_a_config_is_never_made_into_a_model(tmp_path, model):
    """A Lambda layer's code lies in the config as text; nothing reads it."""
    path = tmp_path / "model.keras"
    model.save(path)
    rewrite(path, **{"config.json": b"not even JSON"})
    assert_same(read_checkpoint(path), to_canonical(model))
    with pytest.raises(ValueError, match="Expecting value"):
        keras.saving.load_model(path)


# --- what is refused -----------------------------------------------------------------------------------------------


def rewrite(path, compression=zipfile.ZIP_STORED, **members):
    """Write an archive again with other members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**old, **members}.items():
            if data is not None:
                archive.writestr(name, data)


def changed(model, path, change):
    """A file of weights with a change made by h5py."""
    model.save_weights(path)
    with h5py.File(path, "r+") as content:
        change(content)
    return path


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_files(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"path must name a complete \.keras or \.weights\.h5 file"):
        read_checkpoint(saved)


def test_a_byte_that_changed(tmp_path, model):
    """An archive has a checksum; HDF5 as Keras writes it has none."""
    path = tmp_path / "model.keras"
    model.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="Bad CRC-32 for file"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"no checkpoint", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", bytes(range(256))])
def test_other_files(tmp_path, content):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="path must name a complete"):
        read_checkpoint(path)


def test_archives_of_another_kind(tmp_path, model):
    path = tmp_path / "model.keras"
    model.save(path)
    rewrite(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"model\.weights\.h5 is compressed"):
        read_checkpoint(path)
    rewrite(path, **{"model.weights.h5": None})
    with pytest.raises(CheckpointError, match=r"without model\.weights\.h5"):
        read_checkpoint(path)


def move_away(content):
    content.move("layers/conv2d/vars/0", "elsewhere")


def link(content):
    move_away(content)
    content["layers/conv2d/vars/0"] = h5py.SoftLink("/elsewhere")


def link_outside(content):
    move_away(content)
    content["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "/0")


def store_outside(content):
    move_away(content)
    shape = content["elsewhere"].shape
    content["layers/conv2d/vars"].create_dataset(
        "0", shape, "f4", external=[("/etc/passwd", 0, int(np.prod(shape)) * 4)]
    )


def store_nothing(content):
    move_away(content)
    content["layers/conv2d/vars"].create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")


def unname(content):
    del content["layers/conv2d/vars"].attrs["name"]


def double(content):
    content["layers/conv2d_1/vars"].attrs["name"] = "conv1"


def other_kind(content):
    del content["layers/conv2d"]
    content["layers/conv2d"] = np.ones(3)


def no_layers(content):
    del content["layers"]


def other_facts(content):
    content.attrs["eca_multi"] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_away, "layers/conv2d has no variable 0|1 missing"),
        (link, "/layers/conv2d/vars/0 is no dataset of its own"),
        (link_outside, "/layers/conv2d/vars is no group of its own"),
        (store_outside, "/layers/conv2d/vars/0 lies in another file"),
        (store_nothing, "/layers/conv2d/vars/0 is not stored in one piece"),
        (unname, "layers/conv2d has no name"),
        (double, "two layers hold conv1.weight"),
        (other_kind, "/layers/conv2d is no group of its own"),
        (no_layers, "without layers"),
        (other_facts, "the attribute eca_multi of / must be text"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files_that_are_not_as_keras_writes_them(tmp_path, model, change, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(changed(model, tmp_path / "model.weights.h5", change))


def test_weights_that_are_incomplete_or_broken(tmp_path, model):
    def spoil(content):
        content["layers/dense/vars/1"][0] = np.nan

    def leave_out(content):
        del content["layers/batch_normalization_3"]

    with pytest.raises(ValueError, match=r"'fc\.bias' is not finite"):
        read_checkpoint(changed(model, tmp_path / "a.weights.h5", spoil))
    with pytest.raises(CheckpointError, match=r"4 missing: layer2\.0\.\w+") as info:
        read_checkpoint(changed(model, tmp_path / "b.weights.h5", leave_out))
    assert len(info.value.report.missing) == 4
    with pytest.raises(CheckpointError, match=r"must hold the tensors of eca_resnet34\. The nearest networks are"):
        read_checkpoint(tmp_path / "b.weights.h5", "eca_resnet34")
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_checkpoint(tmp_path / "none.keras")


# --- writing -------------------------------------------------------------------------------------------------------


@suffixes
@pytest.mark.parametrize("name", ["tiny_basic"])  # the rest is in "every kind"
def test_what_is_written_is_keras(tmp_path, name, suffix):
    """Keras loads it, and it is read again with its metadata."""
    path = tmp_path / f"model{suffix}"
    weights = arrays_of(name, num_classes=4)
    write_checkpoint(take(weights), path, {"source": "somewhere", "kernel_sizes": "3, 5"})
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint, weights)
    assert checkpoint.facts["source"] == "somewhere"
    assert checkpoint.facts["kernel_sizes"] == "3, 5"
    if suffix == ".keras":
        loaded = keras.saving.load_model(path)
        assert loaded.network is TINY[name]
    else:
        loaded = build(name, num_classes=4, drop_path=0.1)
        loaded.load_weights(path)
    ours = from_canonical(build(name, num_classes=4), weights)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("f4")
    np.testing.assert_allclose(run(loaded, x), run(ours, x), rtol=1e-5, atol=1e-6)
    assert os.listdir(tmp_path) == [path.name]


def test_options_are_kept(tmp_path):
    weights = arrays_of("tiny_mobile", kernels=[3, 5], in_channels=1, dims=1, features_only=True)
    write_checkpoint(take(weights), tmp_path / "model.keras", {})
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.kernel_sizes == (3, 5, 5)
    assert loaded.input_shape == (None, None, 1)
    assert len(loaded.output) == 2
    assert_same(read_checkpoint(tmp_path / "model.keras"), weights)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes_are_kept(tmp_path, dtype):
    weights = {key: array.astype(dtype) for key, array in arrays_of("tiny_basic", num_classes=2).items()}
    write_checkpoint(take(weights), tmp_path / "model.weights.h5", {})
    checkpoint = read_checkpoint(tmp_path / "model.weights.h5")
    assert_same(checkpoint, weights)
    assert checkpoint.weights["fc.bias"].dtype == dtype


@suffixes
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    """As a disk that fills does: at the last step, and in the middle."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")
    checkpoint = take(arrays_of("tiny_basic", num_classes=2))

    def full(*_):
        raise OSError(28, "No space left on device")

    for place in ("json.dumps", "os.fsync", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(OSError, match="No space left on device"):
                write_checkpoint(checkpoint, path, {})
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == [path.name]


def test_bad_targets(tmp_path):
    checkpoint = take(arrays_of("tiny_basic", num_classes=2))
    with pytest.raises(ValueError, match=r"path must end in \.keras or \.weights\.h5\. Received: .*model\.h5'"):
        write_checkpoint(checkpoint, tmp_path / "model.h5", {})
    with pytest.raises(TypeError, match=r"metadata must be strings by name\. Received: \{'epoch': 3\}"):
        write_checkpoint(checkpoint, tmp_path / "model.keras", {"epoch": 3})
    with pytest.raises(FileNotFoundError, match="No such file"):
        write_checkpoint(checkpoint, tmp_path / "none" / "model.keras", {})
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@suffixes
def test_a_network_of_full_size(tmp_path, suffix):
    network = eca_resnet18(num_classes=3)
    save(network, tmp_path / f"saved{suffix}")
    checkpoint = read_checkpoint(tmp_path / f"saved{suffix}")
    assert_same(checkpoint, to_canonical(network))
    write_checkpoint(checkpoint, tmp_path / f"written{suffix}", {"sha256": "0" * 64})
    assert_same(read_checkpoint(tmp_path / f"written{suffix}"), to_canonical(network))


def test_metadata_are_json(tmp_path):
    write_checkpoint(take(arrays_of("tiny_basic", num_classes=2)), tmp_path / "a.weights.h5", {"b": "ü"})
    with h5py.File(tmp_path / "a.weights.h5") as content:
        assert json.loads(content.attrs["eca_multi"]) == {"b": "ü"}
