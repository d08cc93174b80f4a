"""Canonical weights in files: bit-equal, whole or not at all, and never unpickled."""

import os
import pickle
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from eca_multi import checkpoints as convert
from tests.support.weights import (
    INF,
    LAYERS,
    NAN,
    V,
    assert_equal,
    draw,
    holder,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "eca.safetensors"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_file_round_trip(rng, path, dtype):
    weights = {
        "weight": rng.normal(size=5).astype(dtype),
        "stage1.eca.weight": rng.normal(size=(6, 3)).astype(dtype),
        "transposed": rng.normal(size=(4, 3)).astype(dtype).T,
        "strided": rng.normal(size=10).astype(dtype)[::-2],
        "swapped": rng.normal(size=3).astype(np.dtype(dtype).newbyteorder(">")),
        "empty": np.zeros((0, 3), dtype),
        "scalar": np.array(1.5, dtype),
    }
    given = {name: array.copy() for name, array in weights.items()}
    convert.save_file(weights, path)
    loaded = convert.load_file(str(path))
    assert set(loaded) == set(weights)
    for name, array in weights.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
        np.testing.assert_array_equal(array, given[name])


@pytest.mark.keras
@pytest.mark.parametrize(("a", "b"), [("torch", "linen"), ("nnx", "keras")])
def test_file_between_frameworks(rng, path, a, b):
    a, b = LAYERS[a], LAYERS[b]
    weights = draw(rng, shared=False)
    held = a.package.from_canonical(holder(a, shared=False), weights)
    convert.save_file(a.package.to_canonical(held), path)
    loaded = b.package.from_canonical(holder(b, shared=False), convert.load_file(path))
    assert_equal(b.package.to_canonical(loaded), weights)


def test_file_metadata(path):
    convert.save_file({"weight": V}, path, {"model": "eca_resnet50", "source": "a test"})
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"model": "eca_resnet50", "source": "a test"}


def test_file_is_read_by_torchs_safetensors(rng, path):
    from safetensors.torch import load_file

    convert.save_file({"weight": V}, path)
    np.testing.assert_array_equal(load_file(path)["weight"].numpy(), V)


def test_bfloat16_file_of_torch(rng, path):
    """Such a file is widened to float32, which is exact; with ml_dtypes installed or without."""
    from safetensors.torch import save_file

    tensor = torch.tensor(rng.normal(size=(6, 3)), dtype=torch.bfloat16)
    save_file({"weight": tensor}, path)
    loaded = convert.load_file(path)["weight"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, tensor.float().numpy())
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "from eca_multi.checkpoints import load_file; import numpy as np\n"
        f"array = load_file({str(path)!r})['weight']; np.save({str(path.with_suffix('.npy'))!r}, array)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), loaded)


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_a_truncated_file_is_refused(path, cut):
    convert.save_file({"weight": V}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"path must name a complete \.safetensors file.*eca\.safetensors"):
        convert.load_file(path)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), lambda o, p: torch.save({"w": o}, p)])
def test_a_pickle_is_refused_and_never_executed(tmp_path, path, write):
    harm = tmp_path / "executed"
    write(Harmful(harm), path)
    with pytest.raises(ValueError, match=r"path must name a complete \.safetensors file"):
        convert.load_file(path)
    assert not harm.exists()


def test_the_pickle_would_have_been_harmful(tmp_path):
    harm = tmp_path / "executed"
    pickle.loads(pickle.dumps(Harmful(harm)))
    assert harm.exists()


def test_a_missing_file_is_an_oserror(path):
    with pytest.raises(FileNotFoundError, match=r"eca\.safetensors"):
        convert.load_file(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert.save_file({"weight": V}, path.parent / "nowhere" / "eca.safetensors")


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        (NAN, ValueError, "'weight' is not finite"),
        (INF, ValueError, "'weight' is not finite"),
        (np.arange(3), TypeError, "'weight' of dtype (int64|I64)"),
    ],
)
def test_bad_tensors_are_neither_written_nor_read(path, array, error, match):
    with pytest.raises(error, match=match):
        convert.save_file({"weight": array}, path)
    assert list(path.parent.iterdir()) == []
    safetensors.numpy.save_file({"weight": array}, path)
    with pytest.raises(error, match=match):
        convert.load_file(path)


def test_what_is_no_mapping_is_not_written(path):
    with pytest.raises(TypeError, match="weights must be a mapping of names to arrays"):
        convert.save_file(V, path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch, broken):
    convert.save_file({"weight": V}, path)
    old = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="No space left on device"):
        convert.save_file({"weight": 2 * V}, path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
    convert.save_file({"weight": 2 * V}, path)
    assert path.read_bytes() != old
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(path, monkeypatch):
    convert.save_file({"weight": V}, path)
    seen = []
    replace = os.replace

    def look(source, target):
        seen.append(convert.load_file(path)["weight"])
        assert Path(source).parent == path.parent  # a rename within one file system
        replace(source, target)

    monkeypatch.setattr("os.replace", look)
    convert.save_file({"weight": 2 * V}, path)
    np.testing.assert_array_equal(seen[0], V)
    np.testing.assert_array_equal(convert.load_file(path)["weight"], 2 * V)


def test_a_new_file_has_the_usual_permissions(path):
    convert.save_file({"weight": V}, path)
    other = path.with_suffix(".txt")
    other.write_text("made by open()", encoding="utf-8")
    assert path.stat().st_mode == other.stat().st_mode


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert.save_file({"weight": V}, "eca.safetensors")
    np.testing.assert_array_equal(convert.load_file("eca.safetensors")["weight"], V)


UNPICKLES = re.compile(
    r"import pickle\b|pickle\.loads?\(|torch\.load\((?!.*weights_only=True)|allow_pickle=True|joblib|shelve|marshal\."
)

# What processes of one run hand to each other: the workers of pytest-xdist, in a folder that the session made; a run
# and its worker, an adapter by value; `eca-multi parity port` and its two processes, which run the caller's models.
OWN_FILES = [
    "parity/define/by_value.py",
    "parity/models/elsewhere.py",
    "parity/models/serve.py",
    "parity/pytest/results.py",
]


def test_no_module_of_the_library_unpickles():
    package = Path(import_module("eca_multi").__file__).parent
    found = [
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if UNPICKLES.search(file.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == OWN_FILES


def test_unpickling_would_be_found():
    assert UNPICKLES.search("state = torch.load(path)")
    assert UNPICKLES.search("import pickle")
    assert not UNPICKLES.search("state = torch.load(path, weights_only=True)")


def test_saving_over_a_file_keeps_its_mode_and_its_link(tmp_path):
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    convert.save_file({"weight": np.ones(3)}, real)
    real.chmod(0o600)
    link.symlink_to(real)
    convert.save_file({"weight": np.zeros(3)}, link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert not convert.load_file(real)["weight"].any()
