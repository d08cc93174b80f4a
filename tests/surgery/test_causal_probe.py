"""The probe of causality by itself, on networks of NumPy: what it tells, what it leaves open, how often it runs."""

import numpy as np
import pytest

from eca_multi.surgery.causal_probe import Outcome, probe
from eca_multi.surgery.entry import ECAEntry

SEQUENCE = np.random.default_rng(1).normal(size=(2, 3, 12)).astype(np.float32)
VIDEO = np.random.default_rng(2).normal(size=(2, 3, 5, 4, 6)).astype(np.float32)
RNG = np.random.default_rng(3)


def shifted(x, by, axis=2):
    """x some positions later, zeros in front."""
    return np.pad(x, [(by, 0) if a == axis else (0, 0) for a in range(x.ndim)]).take(range(x.shape[axis]), axis)


def before(x):
    return x + 2 * shifted(x, 1) - shifted(x, 3)


def by_fft(x):
    """A causal convolution whose rounding reaches every position."""
    kernel = np.linspace(1, 0.1, x.shape[2], dtype=np.float32)
    size = 2 * x.shape[2]
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(kernel, size), size)[..., : x.shape[2]].astype(x.dtype)


def both_sides(x):
    return x + np.roll(x, -1, 2)


def raster(x):
    """Sees the rows above, and what lies to the left in its row."""
    return shifted(x, 1) + shifted(np.roll(x, -2, 3), 1) + before(x.swapaxes(2, 3)).swapaxes(2, 3)


def blurred(x):
    """Each frame by itself; its height and width are mixed."""
    return x + np.roll(x, -1, 3) + np.roll(x, 2, 4)


def found(net, *inputs, **options):
    """What the probe finds of a network whose first output is its only site."""

    def run(arrays, paths):
        run.calls += 1
        outputs = net(*arrays)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return Outcome(outputs, {path: outputs[0] for path in paths})

    run.calls = 0
    result = probe(run, inputs, run(inputs, ()).outputs, [ECAEntry("y")], **options)
    return [(one.how, one.place) for one in result.evidence], result.could_tell, run.calls - 1


@pytest.mark.parametrize(
    ("net", "x", "evidence", "could_tell"),
    [
        pytest.param(before, SEQUENCE, [("causal", 0)], True, id="causal"),
        pytest.param(lambda x: shifted(x, 1), SEQUENCE, [("causal", 0)], True, id="one-behind"),
        pytest.param(by_fft, np.tile(SEQUENCE, (1, 1, 40)), [("causal", 0)], True, id="rounding-everywhere"),
        pytest.param(before, np.zeros_like(SEQUENCE), [("causal", 0)], True, id="zeros"),
        pytest.param(before, VIDEO, [("causal", 0), ("frames", 1), ("frames", 2)], True, id="causal-points"),
        pytest.param(blurred, VIDEO, [("frames", 0)], True, id="frames"),
        pytest.param(lambda x: before(blurred(x)), VIDEO, [("causal", 0)], True, id="causal-video"),
        pytest.param(raster, VIDEO[..., 0], [("causal", None)], True, id="raster"),
        pytest.param(lambda x: shifted(raster(x), 1, 3), VIDEO[..., 0], [("causal", None)], True, id="raster-behind"),
        pytest.param(both_sides, SEQUENCE, [], True, id="both-sides"),
        pytest.param(lambda x: x - x.mean(2, keepdims=True), SEQUENCE, [], True, id="mean"),
        pytest.param(lambda x: x + 1e-4 * x.mean(2, keepdims=True), SEQUENCE, [], True, id="weak-mean"),
        pytest.param(np.tanh, VIDEO, [], True, id="points"),
        pytest.param(lambda x: (x + np.roll(x, -1, 2))[:, :, ::2].repeat(2, 2), SEQUENCE, [], True, id="patches"),
        pytest.param(lambda x: before(x)[:, :, -1], SEQUENCE, [], False, id="classifier"),
        pytest.param(lambda x: np.zeros_like(x), SEQUENCE, [], False, id="constant"),
        pytest.param(lambda x: np.full_like(x, np.nan), SEQUENCE, [], False, id="nan"),
        pytest.param(lambda x: both_sides(x).argmax(1)[:, None], SEQUENCE, [], False, id="indices"),
        pytest.param(lambda x: before(x) + RNG.normal(size=x.shape), SEQUENCE, [], True, id="random"),
        pytest.param(lambda x: x @ np.tri(3, dtype=x.dtype), SEQUENCE[:, 0, :3], [], True, id="no-positions"),
    ],
)
def test_what_a_run_tells(net, x, evidence, could_tell):
    assert found(net, x)[:2] == (evidence, could_tell)


def test_half_precision_is_told_by_bits_alone():
    """bfloat16 is shown as float32; its rounding is far above float32's."""
    assert found(before, SEQUENCE, eps=2**-8)[0] == [("causal", 0)]
    shaky = found(lambda x: before(x) + 1e-3 * x.mean(2, keepdims=True), SEQUENCE, eps=2**-8)
    assert shaky[:2] == ([], False)


def test_indices_are_changed_among_those_that_occur():
    tokens = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    table = RNG.normal(size=(10, 3))
    assert found(lambda t: before(table[t].swapaxes(1, 2)), tokens)[0] == [("causal", 0)]
    assert found(lambda t: both_sides(table[t].swapaxes(1, 2)), tokens)[0] == []


def test_each_input_counts_by_itself():
    """A decoder looks at all of its source, and at what lies before in its target."""
    source = SEQUENCE[::-1].copy()
    found_here = found(lambda source, target: before(target) + source.mean(2, keepdims=True), source, SEQUENCE)
    assert found_here[:2] == ([("causal", 0)], True)


def test_an_ordinary_network_costs_one_run_for_each_axis():
    assert found(lambda x: x - x.mean((1, 2, 3, 4), keepdims=True), VIDEO)[2] == 4
    assert found(lambda x: x.mean((2, 3, 4)) @ np.ones((3, 7)), VIDEO)[2] == 0


def test_a_site_of_another_output_is_left_out():
    """What stands still there must reach what stands still in the causal output, as far as a nudge shows."""
    nudged = []

    def nudge(path, added):
        nudged.append(path)
        shift = added if path == "trunk" else 0
        return [before(SEQUENCE) + shift, SEQUENCE.mean(2)]

    sites = (ECAEntry("trunk"), ECAEntry("head"))

    def run(arrays, paths):
        y = before(arrays[0])
        return Outcome([y, arrays[0].mean(2)], {path: y for path in paths})

    (shown,) = probe(run, [SEQUENCE], run([SEQUENCE], ()).outputs, sites, nudge=nudge).evidence
    assert shown.sites == ("trunk",)
    assert nudged == ["trunk", "head"]
    (shown,) = probe(run, [SEQUENCE], run([SEQUENCE], ()).outputs, sites).evidence
    assert shown.sites == ("trunk", "head")


def test_each_call_of_a_site_is_looked_at():
    def run(arrays, paths):
        y = before(arrays[0])
        return Outcome([y], {path: [y.mean(2, keepdims=True), y] for path in paths})

    (shown,) = probe(run, [SEQUENCE], run([SEQUENCE], ()).outputs, [ECAEntry("y")]).evidence
    assert (shown.how, shown.place, shown.rank) == ("causal", 0, 3)


@pytest.mark.parametrize(
    ("fold", "place"),
    [
        pytest.param(lambda y: y, 0, id="as-it-is"),
        pytest.param(lambda y: y.mean((3, 4)), 0, id="pooled"),
        pytest.param(lambda y: y[:, :, :, 0].swapaxes(2, 3), 1, id="behind"),
        pytest.param(lambda y: y.reshape(2, 3, -1), 0, id="time-outside"),
        pytest.param(lambda y: y.swapaxes(2, 4).reshape(2, 3, -1), None, id="time-inside"),
        pytest.param(lambda y: y[:, :, ::-1], None, id="back-to-front"),
    ],
)
def test_where_the_positions_lie_at_a_site(fold, place):
    """A running mean keeps the order along an axis alone on which later positions lie behind earlier ones."""

    def run(arrays, paths):
        y = before(blurred(arrays[0]))
        return Outcome([y], {path: fold(y) for path in paths})

    (shown,) = probe(run, [VIDEO], run([VIDEO], ()).outputs, [ECAEntry("y")]).evidence
    assert shown.place == place


def test_an_image_that_looks_back_along_both_axes_means_no_order():
    """A kernel of 2 x 2 that pads in front; back along one of the two axes alone would be an order."""
    x = VIDEO[:, :, 0]

    def found(function):
        def run(inputs, paths):
            y = function(inputs[0])
            return Outcome([y], {path: y for path in paths})

        return [shown.place for shown in probe(run, [x], run([x], []).outputs, [ECAEntry("conv")]).evidence]

    assert found(lambda x: x + shifted(x, 1) + shifted(x, 1, 3)) == []
    assert found(lambda x: x + shifted(x, 1) + shifted(x, 1, 3) + shifted(x[..., ::-1], 1, 3)[..., ::-1]) == [0]
