"""`record_gates` in every framework: one body, the numbers beside NumPy's, and the network as it was before."""

import numpy as np
import pytest

from eca_multi import reference
from eca_multi.gates import load_gates
from eca_multi.surgery.errors import NoSiteError
from tests.support.recording import (
    RECORDERS,
    call,
    classes_of,
    compiled,
    gates_of,
    is_changed,
    network,
    one_layer,
    record,
    tensor,
    to_numpy,
    without_eca,
)

TWINS = pytest.mark.parametrize("twin", RECORDERS, ids=lambda twin: twin.name)
MANAGERS = pytest.mark.parametrize("twin", [t for t in RECORDERS if t.name != "linen"], ids=lambda twin: twin.name)
LABELS = (["cat", "dog"], ["dog", "dog"])


def batches(twin):
    first = twin.x()
    return [first, first * 3 - 1]


@TWINS
def test_the_statistics_are_those_of_the_gates(twin):
    net = network(twin)
    _, gates = record(twin, net, batches(twin), LABELS, raw=3)
    expected = [gates_of(twin, net, x) for x in batches(twin)]
    assert gates.paths == ("own", "conv")
    assert gates.labels == ("cat", "dog")
    for path, layer in gates.items():
        rows = np.concatenate([each[path] for each in expected])
        assert np.ptp(rows) > 0.1  # the control: gates that do something
        assert (layer.calls, layer.count, layer.inserted) == (2, 4, path == "conv")
        near = {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(layer.mean, rows.mean(0), **near)
        np.testing.assert_allclose(layer.variance, rows.var(0), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(layer.minimum, rows.min(0), **near)
        np.testing.assert_allclose(layer.classes["cat"].mean, rows[0], **near)
        np.testing.assert_allclose(layer.classes["dog"].mean, rows[1:].mean(0), **near)
        np.testing.assert_allclose(layer.raw, rows[:3], **near)
        np.testing.assert_allclose(layer.kernel, twin.kernels(net)["own" if path == "own" else "inserted"])


@TWINS
def test_outputs_and_the_network_are_bit_for_bit_as_without_eca(twin):
    net = network(twin)
    before = [to_numpy(call(twin, net, x)) for x in batches(twin)]
    state = {name: np.array(value) for name, value in twin.kernels(net).items()}
    classes = classes_of(twin, net)
    during, _ = record(twin, net, batches(twin))
    for one, other, x in zip(before, during, batches(twin), strict=True):
        np.testing.assert_array_equal(to_numpy(other), one)
        np.testing.assert_array_equal(to_numpy(call(twin, net, x)), one)
    assert classes_of(twin, net) == classes
    for name, value in twin.kernels(net).items():
        np.testing.assert_array_equal(value, state[name])


@MANAGERS
def test_a_network_compiled_before_records_and_is_not_compiled_anew_afterwards(twin):
    net = network(twin)
    run, count = compiled(twin, net)
    before = to_numpy(run(twin.x()))
    assert len(count) == 1
    during, gates = record(twin, net, [twin.x()], run=run)
    np.testing.assert_allclose(to_numpy(during[0]), before, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gates["conv"].mean, gates_of(twin, net, twin.x())["conv"].mean(0), rtol=1e-5)
    seen = len(count)
    np.testing.assert_array_equal(to_numpy(run(twin.x())), before)
    record(twin, net, [twin.x()], run=run)
    assert len(count) == seen  # a second recording finds what the first one compiled
    run(twin.x()[:1])
    assert len(count) > seen  # the control: a new shape is compiled


@MANAGERS
def test_nothing_stays_after_an_exception(twin):
    net = network(twin)
    before = to_numpy(net(twin.x()))
    classes = classes_of(twin, net)
    seen = []

    def fail(x):
        net(x)
        seen.append(is_changed(net))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), twin.package.record_gates(net) as gates:
        fail(twin.x())
    assert seen == [True]  # the control: there was something to undo
    assert gates["own"].count == 2  # what came before the exception can be read
    assert not is_changed(net)
    assert classes_of(twin, net) == classes
    net(twin.x())
    assert gates["own"].count == 2
    np.testing.assert_array_equal(to_numpy(net(twin.x())), before)
    record(twin, net, [twin.x()])  # and the network can be recorded again


@TWINS
@pytest.mark.parametrize(
    ("pool", "causal"),
    [((2, 3), None), pytest.param((3,), 3, marks=pytest.mark.slow), pytest.param(None, 1, marks=pytest.mark.slow)],
    ids=["frames", "causal-frames", "causal"],
)
def test_kept_positions_are_rows(twin, rng, pool, causal):
    """The options count in (N, T, H, W, C); torch's axes are one further."""
    x = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    shift = 1 if twin.name == "torch" else 0
    pool_axes = None if pool is None else tuple(axis + shift for axis in pool)
    causal_axis = None if causal is None else causal + shift
    net, path = one_layer(twin, 6, 5, pool_axes=pool_axes, causal_axis=causal_axis)
    _, gates = record(twin, net, [tensor(twin, x)], [[0, 1]], raw=1000)
    layer = gates[path]
    g = reference.forward(x, layer.kernel, channel_axis=-1, pool_axes=pool, causal_axis=causal).gate
    rows = np.moveaxis(g, 1, -1)
    kept = [axis for axis in (1, 2, 3) if (pool is not None and axis not in pool) or axis == causal]
    assert layer.count == 2 * np.prod([x.shape[axis] for axis in kept])
    assert (layer.pool_axes, layer.causal_axis, layer.inserted) == (pool_axes, causal_axis, False)
    np.testing.assert_allclose(layer.raw, rows.reshape(-1, 6), rtol=1e-5)
    np.testing.assert_allclose(layer.classes[1].mean, rows[1].reshape(-1, 6).mean(0), rtol=1e-5)


@TWINS
def test_a_record_goes_through_a_file_and_does_not_grow(twin, tmp_path):
    net = network(twin)
    sizes = []
    for calls in (1, 20):
        _, gates = record(twin, net, [twin.x()] * calls, [[0, 1]] * calls, raw=2)
        gates.save(tmp_path / "gates.npz")
        sizes.append((tmp_path / "gates.npz").stat().st_size)
    assert sizes[1] - sizes[0] < 50
    again = load_gates(tmp_path / "gates.npz")
    assert again.framework == twin.name
    np.testing.assert_array_equal(again["conv"].mean, gates["conv"].mean)
    assert again["conv"].inserted


@TWINS
def test_bad_input_has_one_text(twin):
    net = network(twin)
    with pytest.raises(ValueError, match=r"labels must be one for each sample of the call\. Received: 3 labels for 2"):
        record(twin, net, [twin.x()], [[1, 2, 3]])
    with pytest.raises(NoSiteError, match=r"The network must have ECA\. Received: a .* without it\. Call insert_eca"):
        record(twin, without_eca(twin), [twin.x()])
    with pytest.raises(TypeError, match=r"must be .*Received: "):
        record(twin, (3, {}) if twin.name == "linen" else 3, [twin.x()])
    record(twin, net, [twin.x()])  # nothing of it stays


@MANAGERS
def test_nested_recordings_and_recordings_of_nothing(twin):
    net = network(twin)
    nested = "model must be a network whose gates nobody records yet. Received: one inside of record_gates. Leave"
    with pytest.raises(ValueError, match=nested), twin.package.record_gates(net), twin.package.record_gates(net):
        pass
    with pytest.raises(ValueError, match=nested), twin.package.record_gates(net), twin.package.record_gates(net.own):
        pass
    nothing = "record_gates must be followed by a call of the network's ECAs. Received: no call of '(own|conv)', '"
    with pytest.raises(ValueError, match=nothing), twin.package.record_gates(net):
        pass
