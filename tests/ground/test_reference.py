"""The oracle against loops over single numbers, and its gradients against finite differences: no framework anywhere."""

import math

import numpy as np
import pytest

from eca_multi import reference

GATES = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "hard_sigmoid": lambda z: min(max(z + 3, 0), 6) / 6,
    "2sigmoid": lambda z: 2 / (1 + math.exp(-z)),
}
# Shape of x with the channels first, and where they go. Every extent differs, and C is no power of two.
LAYOUTS = {
    "1d-first": ((3, 7, 5), 1),
    "1d-last": ((3, 7, 5), -1),
    "2d-first": ((2, 7, 4, 3), 1),
    "2d-middle": ((2, 7, 4, 3), 2),
    "2d-last": ((2, 7, 4, 3), -1),
    "3d-first": ((2, 5, 2, 3, 4), -4),
    "3d-last": ((2, 5, 2, 3, 4), 4),
    "empty-batch": ((0, 5, 4, 3), 1),
    "two-channels": ((2, 2, 4, 3), -1),
    "one-channel": ((2, 1, 4, 3), 1),
}
MASKS = ("none", "full", "all-masked-sample", "broadcast-batch", "lower-rank")
STEP = 2.0**-17
UNIT = 2.0**-53

OPTIONS = [
    {"padding": padding, "gate": gate, "shared": shared}
    for padding in ("zeros", "circular")
    for gate in GATES
    for shared in (True, False)
]
# All options in one layout; and each layout with each mask, which take the options in turn.
CASES = [("2d-last", "all-masked-sample", options) for options in OPTIONS]
CASES += [
    (layout, mask, OPTIONS[i % len(OPTIONS)])
    for i, (layout, mask) in enumerate((layout, mask) for layout in LAYOUTS for mask in MASKS)
]

all_cases = pytest.mark.parametrize(
    ("layout", "mask", "options"),
    CASES,
    ids=[f"{layout}-{mask}-{'-'.join(map(str, options.values()))}" for layout, mask, options in CASES],
)


def draw_mask(rng, kind, spatial, batch):
    """A mask that broadcasts to (N, *S), or None."""
    if kind == "none":
        return None
    shapes = {"broadcast-batch": (1, *spatial), "lower-rank": spatial[-1:]}
    mask = rng.random(shapes.get(kind, (batch, *spatial))) < 0.6
    if kind == "all-masked-sample":
        mask[:1] = False
    return mask


@pytest.fixture
def problem(rng, layout, mask, options):
    """Channels-first arrays, drawn for the test's case, and the call's options."""
    shape, _ = LAYOUTS[layout]
    channels = shape[1]
    k = min(5, 2 * channels + 1) if options["padding"] == "circular" else 5
    return {
        "x": rng.normal(size=shape) + rng.uniform(-2, 2, (1, channels) + (1,) * (len(shape) - 2)),
        "w": rng.normal(size=k if options["shared"] else (channels, k)),
        "G": rng.normal(size=shape),
        "mask": draw_mask(rng, mask, shape[2:], shape[0]),
        "options": {"padding": options["padding"], "gate": options["gate"]},
    }


def loops(x, w, mask, padding, gate):
    """pooled, logits, gate and y from the definition: loops over n, c, taps and positions."""
    N, C, *S = x.shape
    valid = np.broadcast_to(True if mask is None else mask, (N, *S))
    pooled, logits, gates, y = np.zeros((N, C)), np.zeros((N, C)), np.zeros((N, C)), np.zeros(x.shape)
    for n in range(N):
        for c in range(C):
            values = [x[(n, c, *s)] for s in np.ndindex(*S) if valid[(n, *s)]]
            pooled[n, c] = math.fsum(values) / len(values) if values else 0
    for n in range(N):
        for c in range(C):
            logits[n, c] = convolved(pooled[n], w, c, padding)
            gates[n, c] = GATES[gate](logits[n, c])
            for s in np.ndindex(*S):
                y[(n, c, *s)] = x[(n, c, *s)] * gates[n, c]
    return pooled, logits, gates, y


def convolved(p, w, c, padding):
    taps = w if w.ndim == 1 else w[c]
    total = 0.0
    for j, tap in enumerate(taps):
        i = c + j - len(taps) // 2
        if padding == "circular":
            total += tap * p[i % len(p)]
        elif 0 <= i < len(p):
            total += tap * p[i]
    return total


def moved(array, layout):
    return np.moveaxis(array, 1, LAYOUTS[layout][1])


def forward(problem, layout, x=None, w=None):
    x = problem["x"] if x is None else x
    w = problem["w"] if w is None else w
    axis = LAYOUTS[layout][1]
    return reference.forward(moved(x, layout), w, channel_axis=axis, mask=problem["mask"], **problem["options"])


def backward(problem, layout):
    x, G, axis = moved(problem["x"], layout), moved(problem["G"], layout), LAYOUTS[layout][1]
    return reference.backward(x, problem["w"], G, channel_axis=axis, mask=problem["mask"], **problem["options"])


def slopes(function, array):
    """Central differences of a scalar function by each element of an array."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        ends = []
        for step in (STEP, -STEP):
            changed = array.copy()
            changed[index] += step
            ends.append(function(changed))
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result


def tolerance(problem):
    """What central differences of sum(G * y) can be wrong by.

    The loss is a sum of terms G * x * gate: its rounding, sqrt(terms) units of their size, is divided by the step; and
    the formula is off by step**2 times a third derivative, at most a few times that size as |w| and |p| are a few.
    """
    size = np.sum(np.abs(problem["G"]) * (np.abs(problem["x"]) + 1))
    terms = max(problem["x"].size, 1)
    return (4 * STEP**2 + math.sqrt(terms) * UNIT / STEP) * size


@all_cases
def test_forward_is_the_definition(problem, layout):
    pooled, logits, gate, y = loops(problem["x"], problem["w"], problem["mask"], **problem["options"])
    out = forward(problem, layout)
    # Both sides are float64 sums of a few dozen terms of size 10: 100 units of that.
    for ours, theirs in [(out.pooled, pooled), (out.logits, logits), (out.gate, gate), (out.y, moved(y, layout))]:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=100 * UNIT * 10)


@all_cases
def test_gradients_are_finite_differences(problem, layout):
    def loss(**changed):
        return np.sum(moved(problem["G"], layout) * forward(problem, layout, **changed).y)

    kink = np.abs(np.abs(forward(problem, layout).logits) - 3)
    assert kink.size == 0 or kink.min() > 1e-3, "draw again: hard_sigmoid has no derivative at 3"
    grads = backward(problem, layout)
    atol = tolerance(problem)
    dx = slopes(lambda x: loss(x=x), problem["x"])
    dw = slopes(lambda w: loss(w=w), problem["w"])
    np.testing.assert_allclose(grads.dx, moved(dx, layout), rtol=0, atol=atol)
    np.testing.assert_allclose(grads.dw, dw, rtol=0, atol=atol)


@pytest.mark.parametrize(("layout", "mask", "options"), CASES[: len(OPTIONS)])
def test_gradients_by_the_intermediates(problem, layout):
    """d_gate, d_logits and d_pooled are what the loss changes by when that stage alone is changed."""
    out, grads = forward(problem, layout), backward(problem, layout)
    Gx = (problem["G"] * problem["x"]).sum((2, 3))
    gate, padding = GATES[problem["options"]["gate"]], problem["options"]["padding"]
    shape = out.pooled.shape

    def from_logits(logits):
        return sum(Gx[i] * gate(logits[i]) for i in np.ndindex(shape))

    def from_pooled(pooled):
        logits = [convolved(pooled[n], problem["w"], c, padding) for n, c in np.ndindex(shape)]
        return from_logits(np.reshape(logits, shape))

    atol = tolerance(problem)
    np.testing.assert_allclose(grads.d_gate, Gx, rtol=0, atol=atol)
    np.testing.assert_allclose(grads.d_logits, slopes(from_logits, out.logits), rtol=0, atol=atol)
    np.testing.assert_allclose(grads.d_pooled, slopes(from_pooled, out.pooled), rtol=0, atol=atol)


@pytest.mark.parametrize(("layout", "mask", "options"), [("2d-last", "none", OPTIONS[0])])
@pytest.mark.parametrize("name", ["dx", "dw"])
def test_a_perturbed_gradient_is_rejected(problem, layout, name):
    """The control of the comparison above: one element off by a millionth of the largest one is seen."""
    array = problem[name[1]]
    axis_back = (lambda a: np.moveaxis(a, -1, 1)) if name == "dx" else (lambda a: a)
    right = axis_back(getattr(backward(problem, layout), name))
    wrong = right.copy()
    wrong.flat[1] += 1e-6 * np.abs(right).max()

    def loss(value):
        return np.sum(moved(problem["G"], layout) * forward(problem, layout, **{name[1]: value}).y)

    differences = slopes(loss, array)
    np.testing.assert_allclose(right, differences, rtol=0, atol=tolerance(problem))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        np.testing.assert_allclose(wrong, differences, rtol=0, atol=tolerance(problem))


def test_a_flipped_kernel_is_another_result(rng):
    x, w = rng.normal(size=(2, 6, 3, 4)) + np.arange(6)[:, None, None], np.array([1.0, -0.5, 0.25])
    assert np.abs(reference.forward(x, w).logits - reference.forward(x, w[::-1]).logits).min() > 0.1


def test_an_all_masked_sample_has_mean_0_and_a_gradient_through_the_product_alone(rng):
    x, G = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(2, 5, 4, 3))
    w, mask = rng.normal(size=3), np.ones((2, 4, 3), bool)
    mask[1] = False
    out, grads = reference.forward(x, w, mask=mask), reference.backward(x, w, G, mask=mask)
    assert (out.pooled[1] == 0).all()
    assert (out.y[1] == x[1] / 2).all()
    assert (grads.dx[1] == G[1] / 2).all()
    assert np.isfinite(grads.dw).all()


@pytest.mark.parametrize("gate", GATES)
def test_gates_do_not_overflow(gate):
    z = np.array([-1e4, -1e3, 0.0, 1e3, 1e4])
    top = 2.0 if gate == "2sigmoid" else 1.0
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(reference.gate_value(z, gate), [0, 0, top / 2, top, top])
        np.testing.assert_array_equal(reference.gate_slope(z, gate)[[0, 1, 3, 4]], 0)


def test_any_real_dtype_is_computed_in_float64(rng):
    x = rng.integers(-9, 9, (2, 5, 4, 3))
    expected = reference.forward(x.astype(float), [0.5, 0.25, -1.0])
    for dtype in (np.int8, np.float16, np.float32):
        out = reference.forward(x.astype(dtype), [0.5, 0.25, -1.0])
        assert out.y.dtype == np.float64
        np.testing.assert_array_equal(out.y, expected.y)


X = np.ones((2, 6, 5, 4))
W = np.array([0.5, 1.0, -0.5])
BAD = {
    "rank": (X[0, 0], W, {}, ValueError, r"x must be of rank 3 or more\. Received: rank 2, shape \(5, 4\)"),
    "axis-range": (X, W, {"channel_axis": 4}, ValueError, r"channel_axis must be in \[-4, 4\) for rank 4"),
    "axis-batch": (X, W, {"channel_axis": -4}, ValueError, "another axis than the batch axis 0"),
    "axis-type": (X, W, {"channel_axis": 1.0}, TypeError, "channel_axis must be an integer"),
    "even-kernel": (X, W[:2], {}, ValueError, "kernel_size must be an odd positive integer.*kernel_size=2"),
    "empty-kernel": (X, W[:0], {}, ValueError, "kernel_size must be an odd positive integer.*kernel_size=0"),
    "kernel-rank": (X, np.ones((6, 1, 3)), {}, ValueError, r"weight must be one kernel.*shape \(6, 1, 3\)"),
    "kernels": (X, np.ones((5, 3)), {}, ValueError, "weight must be one kernel.*5 kernels.*for 6 channels"),
    "padding": (X, W, {"padding": "same"}, ValueError, "padding must be 'zeros' or 'circular'.*'same'"),
    "gate": (X, W, {"gate": "relu"}, ValueError, "gate must be 'sigmoid' or 'hard_sigmoid' or '2sigmoid'"),
    "gate-type": (X, W, {"gate": 3}, TypeError, "gate must be 'sigmoid' or.*gate=3"),
    "gate-callable": (X, W, {"gate": np.tanh}, TypeError, "gate must be 'sigmoid' or"),
    "circular": (X, np.ones(15), {"padding": "circular"}, ValueError, "kernel_size must be at most 2"),
    "mask-shape": (X, W, {"mask": np.ones((2, 4, 5), bool)}, ValueError, r"broadcastable to \(2, 5, 4\)"),
    "mask-dtype": (X, W, {"mask": np.ones((2, 5, 4))}, TypeError, "mask must be a boolean tensor.*float64"),
    "empty-extent": (X[:, :, :0], W, {}, ValueError, "x must be non-empty in every spatial axis"),
    "complex": (X + 1j, W, {}, TypeError, "x must be a real"),
    "string": ("photo.jpg", W, {}, TypeError, "x must be a real"),
    "complex-weight": (X, W + 1j, {}, TypeError, "weight must be a real"),
}


@pytest.mark.parametrize(("x", "w", "options", "error", "match"), BAD.values(), ids=BAD)
def test_bad_input(x, w, options, error, match):
    with pytest.raises(error, match=match):
        reference.forward(x, w, **options)
    with pytest.raises(error, match=match):
        reference.backward(x, w, np.ones(np.shape(x)), **options)


@pytest.mark.parametrize("shape", [(2, 6, 5), (3, 6, 5, 4), (2, 2, 6, 5, 4), ()])
def test_a_cotangent_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="cotangent"):
        reference.backward(X, W, np.ones(shape))


LATER = {
    "pooled": {"logits", "gate", "y", "d_logits", "d_pooled", "dx", "dw"},
    "logits": {"gate", "y", "d_logits", "d_pooled", "dx", "dw"},
    "gate": {"y", "dx"},
    "d_gate": {"d_logits", "d_pooled", "dx", "dw"},
    "d_logits": {"d_pooled", "dx", "dw"},
    "d_pooled": {"dx"},
}


@pytest.mark.parametrize("stage", LATER)
def test_a_value_given_instead_changes_the_later_stages_alone(rng, stage):
    x, w, cotangent = rng.normal(size=(2, 5, 4)), rng.normal(size=3), rng.normal(size=(2, 5, 4))
    instead = {stage: rng.normal(size=(2, 5))}
    forward = [vars(reference.forward(x, w, instead=given)) for given in ({}, instead)]
    backward = [vars(reference.backward(x, w, cotangent, instead=given)) for given in ({}, instead)]
    changed = {name for name in forward[0] if (forward[0][name] != forward[1][name]).any()}
    changed |= {name for name in backward[0] if (backward[0][name] != backward[1][name]).any()}
    assert changed == LATER[stage]
