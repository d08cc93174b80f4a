"""The running statistics and the file of a record, beside what NumPy says of all gates at once."""

import io
import json
import zipfile

import numpy as np
import pytest

from eca_multi.gates import GateRecord, GatesFileError, LayerGates, Moments, load_gates
from eca_multi.gates.layer import BINS, EDGES


def layer(channels=5, **options):
    return LayerGates("a.eca", channels, np.array([0.5, -1.0, 0.25]), **options)


def test_blocks_give_what_one_pass_over_all_rows_gives(rng):
    rows = rng.normal(1e3, 1e-2, (1000, 5))  # a naive sum of squares has no digit left
    moments = Moments(5)
    for block in np.split(rows, [1, 2, 400, 400, 999]):
        moments.add(block)
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-9)
    naive = (rows.astype(np.float32) ** 2).mean(0) - rows.astype(np.float32).mean(0) ** 2
    assert not np.allclose(naive, rows.var(0), rtol=1e-1)  # the control


def test_kept_positions_are_rows_and_have_their_samples_label(rng):
    gates = rng.uniform(0, 2, (4, 5, 3, 2))
    one = layer(most_raw=7)
    for part, labels in ((gates[:1], ["b"]), (gates[1:], ["a", "b", "a"])):
        one.add(part, labels)
    rows = np.moveaxis(gates, 1, -1).reshape(-1, 5)
    of_b = np.moveaxis(gates[[0, 2]], 1, -1).reshape(-1, 5)
    assert (one.calls, one.count, one.classes["b"].count) == (2, 24, 12)
    np.testing.assert_allclose(one.mean, rows.mean(0))
    np.testing.assert_allclose(one.classes["b"].mean, of_b.mean(0))
    np.testing.assert_allclose(one.classes["b"].variance, of_b.var(0))
    np.testing.assert_array_equal(one.minimum, rows.min(0))
    np.testing.assert_array_equal(one.maximum, rows.max(0))
    np.testing.assert_array_equal(one.histogram[1:-1], np.histogram(rows, EDGES)[0])
    np.testing.assert_array_equal(one.raw, rows[:7].astype(np.float32))
    assert one.raw_labels == ["b"] * 6 + ["a"]


def test_gates_outside_of_the_bins_and_gates_that_are_no_number_are_counted():
    one = layer(1)
    one.add(np.array([[-1.0], [0.0], [2.0], [3.0], [np.nan], [np.inf]]))
    assert (one.histogram[0], one.histogram[1], one.histogram[BINS], one.histogram[-1]) == (1, 1, 1, 1)
    assert (one.not_finite, one.histogram.sum()) == (2, 4)
    assert np.isnan(one.deviation)


def test_a_record_does_not_grow_with_the_data(rng, tmp_path):
    sizes = []
    for calls in (2, 200):
        record = GateRecord("torch", "Net", raw=3)
        one = layer()
        for _ in range(calls):
            record.add(one, rng.uniform(size=(4, 5)), [0, 1, 0, 1])
        record.save(tmp_path / "gates.npz")
        sizes.append((tmp_path / "gates.npz").stat().st_size)
    assert sizes[1] - sizes[0] < 100  # a digit more in a count
    assert one.count == 800


def full_record(rng):
    record = GateRecord("torch", "Net", raw=2)
    with record.label(["cat", "dog"]):
        record.add(layer(pool_axes=(2, 3), causal_axis=2, inserted=True), rng.uniform(size=(2, 5, 4)))
    record.add(LayerGates("b", 2, np.zeros((2, 3)), "2sigmoid", "circular"), np.ones((1, 2)), [7])
    return record


def test_a_file_gives_the_record_back(rng, tmp_path):
    record = full_record(rng)
    record.save(tmp_path / "gates.npz")
    again = load_gates(tmp_path / "gates.npz")
    assert (again.framework, again.network, again.most_raw, again.paths) == ("torch", "Net", 2, ("a.eca", "b"))
    assert again.labels == record.labels == (7, "cat", "dog")
    for path, one in record.items():
        for name, value in vars(one).items():
            if name not in ("classes", "all", "_raw"):
                np.testing.assert_array_equal(getattr(again[path], name), value, err_msg=name)
        np.testing.assert_array_equal(again[path].raw, one.raw)
        for label, moments in [("all", one.all), *one.classes.items()]:
            other = again[path].all if label == "all" else again[path].classes[label]
            assert other.count == moments.count
            np.testing.assert_array_equal(other.mean, moments.mean)
            np.testing.assert_array_equal(other.squares, moments.squares)
    assert str(again) == str(record)
    assert np.load(tmp_path / "gates.npz")["0/mean"].shape == (5,)  # other tools read the file too


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The file at a path with changed facts, and each array by the bytes that `change` returns for it."""
    with zipfile.ZipFile(path) as old:
        members = {entry.filename: old.read(entry) for entry in old.infolist()}
    facts = json.loads(np.load(io.BytesIO(members["facts.npy"])).tobytes())
    change(facts, members)
    text = io.BytesIO()
    np.save(text, np.frombuffer(json.dumps(facts).encode(), np.uint8))
    members["facts.npy"] = text.getvalue()
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members.items():
            new.writestr(name, data)


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


BROKEN = {
    "schema": (lambda facts, _: facts.update(schema=2), "schema 2"),
    "framework": (lambda facts, _: facts.update(framework=3), "framework is a int"),
    "missing": (lambda _, members: members.pop("0/mean.npy"), "no item named"),
    "shape": (lambda _, members: members.update({"0/mean.npy": array(np.ones(6))}), r"shape \(6,\)"),
    "objects": (lambda _, members: members.update({"0/mean.npy": array(np.array([{}] * 5))}), "of \\|O"),
    "huge": (
        lambda _, members: members.update({"0/kernel.npy": array(np.ones(3)).replace(b"(3,)", b"(9999999999,)")}),
        "must be a record of gates",
    ),
    "twice": (lambda facts, _: facts["layers"][1].update(path="a.eca", channels=2), "two layers of the path"),
    "kernel": (lambda _, members: members.update({"0/kernel.npy": array(np.ones(2))}), "a kernel of shape"),
    "classes": (lambda facts, _: facts["layers"][1].update(classes=[[[], 1]]), "must be a record of gates"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_raises_one_error(rng, tmp_path, name):
    change, match = BROKEN[name]
    path = tmp_path / "gates.npz"
    full_record(rng).save(path)
    rewritten(path, lambda facts, members: None)
    load_gates(path)  # the control: written anew, and right
    rewritten(path, change)
    with pytest.raises(GatesFileError, match=match):
        load_gates(path)


def test_files_that_are_no_record(rng, tmp_path):
    path = tmp_path / "gates.npz"
    full_record(rng).save(path)
    rewritten(path, lambda facts, members: None, zipfile.ZIP_DEFLATED)  # may unpack to any length
    with pytest.raises(GatesFileError, match="is compressed"):
        load_gates(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(GatesFileError, match=r"facts.npy.*Pass a file that record.save wrote"):
        load_gates(path)
    path.write_bytes(b"none")
    with pytest.raises(GatesFileError, match="not a zip file"):
        load_gates(path)
    with pytest.raises(FileNotFoundError, match="other"):
        load_gates(tmp_path / "other.npz")


def test_labels():
    record = GateRecord("torch")
    gate = np.ones((2, 5))
    record.add(layer(), gate, np.array([[1], [0]]))  # a column, as Keras has it
    assert record.labels == (0, 1)
    with record.label([1, 2]), pytest.raises(ValueError, match="label must be entered once"), record.label([1]):
        pass
    for bad in (np.eye(2), [0.5, 1.5], "ab", [{}, {}], None):
        with pytest.raises(TypeError, match="labels must be a sequence of integers or strings"):
            record.add(layer(), gate, bad if bad is not None else 3)
    with pytest.raises(ValueError, match=r"labels must be one for each sample of the call. Received: 3 labels for 2"):
        record.add(layer(), gate, [1, 2, 3])
    with pytest.raises(ValueError, match="labels must be of at most 1000 classes"):
        record.add(layer(), np.ones((1001, 5)), list(range(1001)))
    with pytest.raises(KeyError, match=r"path must be that of a recorded ECA. Received: 'x'. There are a.eca"):
        record["x"]
    with pytest.raises(TypeError, match="raw must be an integer"):
        GateRecord("torch", raw=0.5)
    with pytest.raises(ValueError, match="raw must be 0 or more"):
        GateRecord("torch", raw=-1)
