"""Axis strings, and what a specification draws: the data of a case is as declared, telling, and the same each time."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eca_multi.parity import Case, Draw, Manual, NumpyAdapter, Spec, SpecError, booleans, integers, normal, uniform
from eca_multi.parity.define.axes import Rearrangement, order, parse, shape_of
from eca_multi.parity.define.draw import draw
from eca_multi.parity.define.spec import STANDARD, Training
from eca_multi.parity.execute.tasks import base_job, training_job

# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("N H W C", ("N", "H", "W", "C")),
        ("NHWC", ("N", "H", "W", "C")),
        ("C2", ("C2",)),  # not capitals alone: one name
        ("N10", ("N10",)),
        ("NC*", ("N", "C", "*")),
        ("N * C", ("N", "*", "C")),
        ("batch time feature", ("batch", "time", "feature")),
        ("k", ("k",)),
        ("kC", ("kC",)),
        ("1 1 k", ("1", "1", "k")),
        ("  N   C ", ("N", "C")),
        ("", ()),
        (("N", 3), ("N", "3")),
        (("batch", "C"), ("batch", "C")),
    ],
)
def test_axes_are_parsed(text, axes):
    assert parse(text) == axes


@pytest.mark.parametrize(
    ("axes", "layout", "ordered"),
    [
        ("NCHW", "NHWC", "NHWC"),
        ("NHWC", "NCHW", "NCHW"),
        ("N C H W", "NC*", "NCHW"),
        ("N H W C", "NC*", "NCHW"),
        ("N C D H W", "N*C", "NDHWC"),
        ("N L C", "NC*", "NCL"),
        ("W H C N", "*", "WHCN"),  # "*" keeps the order of what it stands for
        ("N H W", "NCHW", "NHW"),  # a mask has no channels: the others stay where they are
        ("N W H", "NCHW", "NHW"),  # and take the layout's order
        ("N L", "N*C", "NL"),
        ("N L C", "NCHW", "NLC"),  # the layout does not know L: as it is
        ("batch", "NCHW", ("batch",)),
        ("", "NCHW", ""),
    ],
)
def test_axes_take_the_order_of_a_layout(axes, layout, ordered):
    assert order(parse(axes), parse(layout)) == tuple(ordered)


def test_sizes_are_looked_up_and_numbers_are_themselves():
    assert shape_of(parse("N 1 C 3"), {"N": 2, "C": 5}, "x") == (2, 1, 5, 3)


@pytest.mark.parametrize("sizes", [{}, {"N": 2}, {"N": 2, "C": 2.0}, {"N": 2, "C": None}])
def test_an_axis_without_a_size_is_refused_with_the_remedy(sizes):
    with pytest.raises(SpecError, match=r"each axis of x must have a size\. .* Add it, as in config=\{'.': 8\}"):
        shape_of(parse("N C"), sizes, "x")


# --- rearrangements ------------------------------------------------------------------------------------------------


@st.composite
def rearrangements(draw_from):
    """A permutation of some axes, axes of length one on either side, and a size for each axis."""
    names = draw_from(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=4))
    sides = []
    for _ in range(2):
        axes = draw_from(st.permutations(names))
        for _ in range(draw_from(st.integers(0, 2))):
            axes.insert(draw_from(st.integers(0, len(axes))), "1")
        sides.append(tuple(axes))
    return *sides, {name: draw_from(st.integers(1, 4)) for name in names}


@given(rearrangements())
@settings(deadline=None)
def test_a_rearrangement_moves_axes_and_its_inverse_moves_them_back(case):
    source, target, sizes = case
    rearrange = Rearrangement(source, target)
    array = np.arange(np.prod(shape_of(source, sizes, "x"), dtype=int)).reshape(shape_of(source, sizes, "x"))
    moved = rearrange(array)
    assert moved.shape == shape_of(target, sizes, "x")
    # An oracle of another kind: einsum, which knows names, on what is left without the axes of length one.
    left, right = ("".join(axis for axis in axes if axis != "1") for axes in (source, target))
    named = array.reshape([sizes[axis] for axis in left])
    np.testing.assert_array_equal(moved.ravel(), np.einsum(f"{left}->{right}", named).ravel())
    np.testing.assert_array_equal(rearrange.inverse(moved), array)
    assert rearrange.inverse(moved).shape == array.shape
    assert rearrange.inverse == Rearrangement(target, source)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a b", "b c"),
        ("a b", "b"),
        ("a", "a b"),
        ("a a", "a a"),
        ("k", "1 1 k k"),
        ("a b", "(a b)"),
        ("ab", "a b"),
        ("a 2", "a 1"),
    ],
    ids=["other axis", "dropped", "added", "repeated on both sides", "repeated", "merged", "split", "a size dropped"],
)
def test_what_is_no_permutation_is_refused(source, target):
    with pytest.raises(SpecError, match="a rearrangement must be a permutation: each axis once"):
        Rearrangement(parse(source), parse(target))


@pytest.mark.parametrize("shape", [(3,), (3, 4, 1), (3, 2), ()], ids=["short", "long", "no singleton", "scalar"])
def test_an_array_of_other_axes_is_refused(shape):
    rearrange = Rearrangement(parse("k 1"), parse("1 k"))
    with pytest.raises(SpecError, match=r"the array must have the axes 'k 1'\. Received: shape \("):
        rearrange(np.ones(shape))
    assert rearrange(np.ones((3, 1))).shape == (1, 3)


# --- what a specification is ---------------------------------------------------------------------------------------


def spec(**changes) -> Spec:
    fields = {"layout": "N C", "weights": {"w": "C k"}, "runners": {}, "reference": NumpyAdapter, "config": {"k": 3}}
    return Spec("Test", **{**fields, **changes})


def only(specification: Spec, **changes):
    """What is drawn for one case of a specification."""
    return draw(specification, Case("only", **changes))


def test_inputs_and_outputs_have_the_layout_unless_they_say_more():
    assert (spec().inputs, spec().outputs) == ({"x": "N C"}, {"y": "N C"})
    assert spec(inputs={"a": "N"}, outputs={"b": ""}).axes(Case("only")) == {"a": ("N",)}


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": {"x": "C"}},
        {"weights": {"y": "C"}},
        {"state": {"w": "C"}},
        {"taps": ("w",)},
        {"taps": ("gate", "gate")},
        {"outputs": {"x": "N C"}},
        {"weights": {"conv/w": "C"}},
        {"taps": ("gate@ones",)},
    ],
    ids=str,
)
def test_names_that_collide_are_refused(changes):
    with pytest.raises(SpecError, match="must have names of their own, without / and @"):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"outputs": {"y": "N C", "dx": "N C"}}, "dx"),
        ({"outputs": {"y": "N C", "dw": "N C"}}, "dw"),
        ({"taps": ("dx",)}, "dx"),
        ({"weights": {"_gate": "C"}, "taps": ("gate",)}, "d_gate"),
        ({"state": {"mean": "C"}, "outputs": {"new_mean": "C"}}, "new_mean"),
        ({"taps": ("dm",), "cases": (Case("masked", inputs={"m": "N C"}),)}, "dm"),
    ],
    ids=str,
)
def test_names_that_collide_with_a_results_are_refused(changes, result):
    """Without that the one is overwritten by the other, without a word."""
    with pytest.raises(SpecError, match=rf"results must have names of their own: .* Received: {result!r} twice"):
        spec(**changes)


def test_a_weight_may_be_called_as_the_gradient_of_an_input():
    """A weight is no result: the gradient of t is dt, that of dt is ddt."""
    assert spec(inputs={"t": "N C"}, weights={"dt": "C"}).weights == {"dt": "C"}


def test_a_specification_needs_a_case():
    with pytest.raises(SpecError, match=r"a specification must have a case\. Received: cases=\(\) in Test"):
        spec(cases=())


@pytest.mark.parametrize("second", ["offsets", "offsets+nan"])
def test_two_cases_of_one_name_are_refused(second):
    """The check nonfinite makes "offsets+nan" of "offsets" itself."""
    with pytest.raises(SpecError, match=rf"each case must have a name of its own\. Received: '{re.escape(second)}'"):
        spec(cases=(Case("offsets", config={"C": 3}), Case(second, config={"C": 5})))


@pytest.mark.parametrize("name", ["a/b", "../a", "", ".a", "a b", "Offsets", "a\n"])
def test_the_name_of_a_case_is_a_part_of_the_names_of_files(name):
    with pytest.raises(SpecError, match=r"the name of a case must be lower case letters, digits and"):
        spec(cases=(Case(name),))


@pytest.mark.parametrize("numbers", [(-1e-3, 0.0), (0.0, -1e-3), (np.nan, 0.0), (0.0, np.inf)])
def test_a_tolerance_that_lets_everything_pass_is_refused(numbers):
    with pytest.raises(SpecError, match="rtol and atol must be 0 or more, and finite"):
        Manual(*numbers)


def test_equal_specifications_have_equal_digests_and_others_do_not():
    assert spec().digest() == spec().digest()
    others = [spec(config={"k": 5}), spec(layout="C N"), spec(weights={"w": "k C"}), spec(cases=(Case("other"),))]
    assert len({other.digest() for other in [spec(), *others]}) == 5


# --- what is drawn -------------------------------------------------------------------------------------------------


def test_a_case_is_the_same_at_each_call_and_no_other_case():
    first, again, other = only(spec()), only(spec()), draw(spec(), Case("other"))
    for group in ("inputs", "weights"):
        for name, array in getattr(first, group).items():
            np.testing.assert_array_equal(array, getattr(again, group)[name])
            assert not np.array_equal(array, getattr(other, group)[name])


def test_the_cotangent_of_a_case_is_the_same_at_each_call_in_every_dtype():
    jobs = [base_job(spec(), case, draw(spec(), case), "float32") for case in (Case("only"), Case("only"))]
    np.testing.assert_array_equal(jobs[0].cotangents["y"], jobs[1].cotangents["y"])
    assert jobs[0].cotangents["y"].shape == jobs[0].inputs["x"].shape
    half = base_job(spec(), Case("only"), only(spec()), "float16")
    np.testing.assert_array_equal(half.cotangents["y"], jobs[0].cotangents["y"].astype(np.float16))
    assert half.cotangents["y"].dtype == np.float32  # which holds every float16 exactly


def test_shapes_are_those_of_the_axes():
    drawn = only(
        spec(inputs={"x": "N H 1 C", "t": ("N", 3)}, weights={"w": "C k 2"}, state={"m": "C"}),
        config={"N": 4, "C": 6, "H": 5},
    )
    assert drawn.inputs["x"].shape == (4, 5, 1, 6)
    assert drawn.inputs["t"].shape == (4, 3)
    assert drawn.weights["w"].shape == (6, 3, 2)
    assert drawn.state["m"].shape == (6,)


def test_channels_of_an_input_have_means_of_their_own_and_those_of_a_weight_do_not():
    drawn = only(spec(weights={"w": normal("C k")}), config={"N": 20000, "k": 20000})
    assert np.ptp(drawn.inputs["x"].mean(0)) > 1
    assert np.ptp(drawn.weights["w"].mean(1)) < 0.1


@pytest.mark.parametrize(
    ("axes", "outputs", "fan_in"),
    [
        ("C F", "N F", 12),  # a product
        ("F C", "N F", 12),
        ("h w C F", "N F", 7 * 5 * 12),  # a convolution
        ("h w C", "N C", 7 * 5),  # a depthwise one
        ("C F", "", 12),  # an output without names: the last axis is the layer's own
        ("C F", "N L", 12),  # a layer that another one follows
        ("F", "N F", 1),  # a bias
        ("C", "N", 1),
    ],
)
def test_weights_of_plain_axes_keep_the_size_of_what_they_multiply(axes, outputs, fan_in):
    """And those of a source keep its size."""
    sizes = {"h": 7, "w": 5, "F": 300}
    changes = {"inputs": {"x": "N C"}, "outputs": {"y": outputs}, "config": sizes}
    plain, own = (only(spec(**changes, weights={"k": source})).weights["k"] for source in (axes, normal(axes)))
    np.testing.assert_allclose(plain, own / np.sqrt(fan_in))
    assert 0.7 < own.std() < 1.3


def test_a_case_scales_the_float_inputs_of_plain_axes_alone():
    groups = {"inputs": {"x": "N C", "m": booleans("N"), "p": normal("N C")}, "state": {"s": "C"}}
    large, small = (draw(spec(cases=(case,), **groups), case) for case in (Case("only"), Case("only", scale=0.05)))
    np.testing.assert_allclose(small.inputs["x"], 0.05 * large.inputs["x"])
    for name, array in {**large.inputs, **large.weights, **large.state}.items():
        assert name == "x" or np.array_equal(array, {**small.inputs, **small.weights, **small.state}[name])


def test_a_case_changes_sizes_axes_and_weights():
    drawn = only(
        spec(),
        config={"C": 5, "k": 7, "L": 4},
        inputs={"x": "N C L", "mask": booleans("N L")},
        weights={"w": "k"},
        outputs={"y": "N C L"},
    )
    assert drawn.config["k"] == 7
    assert drawn.inputs["x"].shape == (2, 5, 4)
    assert drawn.inputs["mask"].shape == (2, 4)
    assert drawn.weights["w"].shape == (7,)
    assert drawn.axes == {"x": ("N", "C", "L"), "mask": ("N", "L"), "w": ("k",)}


def test_a_case_draws_its_own_data_and_cotangent_beside_the_drawn_ones():
    x, dy = np.full((2, 12), 7.0), np.full((2, 12), 3.0)
    drawn = only(spec(), draw=lambda rng, config: {"x": x, "dy": dy})
    assert drawn.inputs["x"] is x
    assert drawn.cotangents["y"] is dy
    assert drawn.weights["w"].shape == (12, 3)
    job = base_job(spec(), Case("only"), drawn, "float32")
    np.testing.assert_array_equal(job.cotangents["y"], dy)


@pytest.mark.parametrize("name", ["X", "dx", "y"])
def test_a_case_that_draws_an_unknown_name_is_refused(name):
    with pytest.raises(SpecError, match=rf"case only must draw some of x, w, dy\. Received: '{name}'"):
        only(spec(), draw=lambda rng, config: {name: np.ones((2, 12))})


def test_a_case_may_draw_lists():
    drawn = only(spec(weights={"w": "C"}), config={"C": 3}, draw=lambda rng, config: {"w": [1.0, 2.0, 4.0]})
    np.testing.assert_array_equal(drawn.weights["w"], [1.0, 2.0, 4.0])


@pytest.mark.parametrize("name", ["x", "dy"])
def test_a_case_that_draws_another_shape_is_refused(name):
    with pytest.raises(
        SpecError, match=rf"'{name}' of case only must have the shape \(2, 12\) of 'N C'. Received: \(12, 2\)"
    ):
        only(spec(), draw=lambda rng, config: {name: np.ones((12, 2))})


def test_a_generator_that_returns_another_shape_is_refused():
    with pytest.raises(SpecError, match=r"'w' of case only must have the shape \(12,\) of 'C'. Received: \(3,\)"):
        only(spec(weights={"w": Draw("C", lambda rng, shape: rng.normal(size=3))}))


def test_a_missing_size_is_refused():
    with pytest.raises(SpecError, match=r"each axis of 'w' must have a size\. Received: 'C out' and no integer 'out'"):
        only(spec(weights={"w": "C out"}))


@pytest.mark.parametrize("size", [-1, 0])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(SpecError, match=rf"each axis of 'x' must have a size of 1 or more\. Received: {size} for 'C'"):
        only(spec(), config={"C": size})


def test_generators_give_what_they_say():
    drawn = only(
        spec(
            inputs={
                "x": normal("N C", scale=2.0, mean=5.0),
                "u": uniform("N C", 0.5, 2.0),
                "i": integers("N C", 3, 6),
                "m": booleans("N C", 0.9),
            },
            outputs={"y": "N C"},
        ),
        config={"N": 500},
    )
    x, u, i, m = drawn.inputs.values()
    assert abs(x.mean() - 5) < 0.1
    assert abs(x.std() - 2) < 0.1
    assert u.min() >= 0.5
    assert u.max() < 2.0
    assert i.dtype == np.int32
    assert set(np.unique(i)) == {3, 4, 5}
    assert m.dtype == bool
    assert 0.85 < m.mean() < 0.95


def test_a_job_rounds_floats_alone():
    inputs = {"x": "N C", "i": integers("N", 0, 9), "m": booleans("N")}
    job = base_job(spec(), Case("only"), only(spec(inputs=inputs)), "bfloat16")
    assert [job.inputs[name].dtype for name in inputs] == [np.float32, np.int32, bool]
    bits = job.inputs["x"].view(np.uint32)
    assert not (bits & 0xFFFF).any()  # bfloat16 is the upper half of float32
    assert (only(spec(inputs=inputs)).inputs["x"].astype(np.float32).view(np.uint32) & 0xFFFF).any()


# --- weights that could not tell ----------------------------------------------------------------------------------


def weight(array):
    array = np.asarray(array, float)
    axes = " ".join("ab"[: array.ndim])
    sizes = dict(zip("ab", array.shape, strict=False))
    return only(spec(weights={"w": axes}), config=sizes, draw=lambda rng, config: {"w": array}).weights["w"]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ([1, 1, 1], "must not be constant: any permutation of it would pass. Draw it at random"),
        ([0, 0], "must not be constant"),
        ([1, 2, 1], "must not be symmetric along 'a': a flipped one would pass. Draw it at random"),
        ([[1, 2], [1, 2]], "must not be symmetric along 'a'"),
        ([[1, 1], [3, 3], [2, 2]], "must not be symmetric along 'b'"),
        ([[1, 2], [2, 3]], "must not be symmetric: a transposed one would pass"),
    ],
    ids=["constant", "zero", "symmetric", "equal rows", "equal columns", "its own transpose"],
)
def test_a_weight_that_hides_a_fault_is_refused_with_the_reason(array, reason):
    with pytest.raises(SpecError, match=f"weight 'w' of case only {reason}"):
        weight(array)


@pytest.mark.parametrize("array", [[1, 2, 3], [1, 2, 2], [[1, 2], [3, 4]], [[1, 2, 3]], [5], [[5]], [0, -0.0, 1]])
def test_a_weight_that_tells_is_taken(array):
    np.testing.assert_array_equal(weight(array), array)


def test_the_standard_cases_tell():
    for case in STANDARD:
        assert draw(spec(), case).weights["w"].shape == (12, 3)


# --- batches -------------------------------------------------------------------------------------------------------


def test_batches_are_new_data_for_each_step():
    trained = spec(training=Training(steps=4), inputs={"x": "N C", "m": booleans("N")})
    job = training_job(trained, Case("only"), draw(trained, Case("only")), "float32")
    assert job.batches["x"].shape == (4, 2, 12)
    assert not np.array_equal(job.batches["x"][0], job.batches["x"][1])
    np.testing.assert_array_equal(job.batches["m"][0], job.batches["m"][3])  # no float: no noise
    np.testing.assert_array_equal(job.inputs["x"], job.batches["x"][0])


def test_batches_of_another_length_are_refused():
    trained = spec(training=Training(steps=4, batches=lambda rng, config, steps: {"x": np.ones((3, 2, 12))}))
    with pytest.raises(SpecError, match=r"batches of 'x' must have 4 steps first. Received: \(3, 2, 12\)"):
        training_job(trained, Case("only"), draw(trained, Case("only")), "float32")


def test_the_loss_alone_has_a_cotangent():
    trained = spec(outputs={"y": "N C", "loss": "1"}, training=Training(steps=2, loss="loss"))
    job = training_job(trained, Case("only"), draw(trained, Case("only")), "float32")
    assert job.cotangents["loss"].tolist() == [1.0]
    assert not job.cotangents["y"].any()
