"""`assert_match` and `assert_close`: two lines that pass what is right, and name who is off, where, and by how much."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from eca_multi.parity import ParityError, SpecError, assert_match

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
W = RNG.normal(size=(4, 5))
V = RNG.normal(size=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fingerprints explain a failure and take seconds; one test of them is below."""
    monkeypatch.setattr("eca_multi.parity.match.measure", lambda framework: {})


def scale(inputs, weights):
    """In the arrays of any framework."""
    return inputs * weights


def layers(**changes):
    """One layer in each framework, whose arrays they must be given."""
    functions = {
        "torch": lambda x, w: torch.sigmoid(x @ w),
        "jax": lambda x, w: jax.nn.sigmoid(x @ w),
        "tensorflow": lambda x, w: tf.sigmoid(x @ w),
        "numpy": lambda x, w: 1 / (1 + np.exp(-(x @ w))),
    }
    return {**functions, **changes}


def fails(*arguments, **options) -> str:
    """What the ParityError of a comparison says."""
    with pytest.raises(ParityError, match="float") as caught:
        assert_match(*arguments, **options)
    return str(caught.value)


# --- what is right passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_layer_in_all_frameworks_agrees(dtype):
    assert_match(layers(), X, W, dtype=dtype)


def test_bfloat16_agrees_where_there_is_bfloat16():
    functions = layers()
    del functions["numpy"]
    assert_match(functions, X, W, dtype="bfloat16")


@pytest.mark.keras
@pytest.mark.parametrize("name", ["keras", "keras-mine"])
def test_a_keras_function_gets_arrays_of_its_backend(name):
    import keras

    def layer(x, w):
        assert keras.ops.is_tensor(x)
        return keras.ops.sigmoid(x @ w)

    assert_match({"torch": layers()["torch"], name: layer}, X, W)
    assert name in fails({"torch": layers()["torch"], name: lambda x, w: keras.ops.sigmoid(x @ w * 1.001)}, X, W)


def test_the_name_of_a_function_says_whose_arrays_it_gets():
    seen = {}

    def spy(name):
        def function(x, w):
            seen.setdefault(name, type(x).__module__.partition(".")[0])
            return x * w

        return function

    names = ["torch", "torch-mine", "jax", "jax-old", "linen", "nnx", "numpy", "tf", "tf-old", "keras-tensorflow"]
    assert_match({name: spy(name) for name in names}, X, V, gradients=False)
    expected = {name: name.partition("-")[0] for name in names}
    expected |= {"linen": "jax", "nnx": "jax", "tf": "tensorflow", "tf-old": "tensorflow"}
    expected |= {"keras-tensorflow": "tensorflow"}
    assert seen == expected


@pytest.mark.parametrize(
    ("inputs", "weights", "function"),
    [
        (X, V, lambda i, w: i * w),
        (X, (), lambda i, w: i * i),
        ([X, X + 1], [V], lambda i, w: i[0] * i[1] * w[0]),
        ((X, X + 1), {"v": V}, lambda i, w: i[0] * i[1] * w["v"]),
        ({"a": X, "b": V}, {}, lambda i, w: i["a"] * i["b"]),
        (X.tolist(), V.tolist(), lambda i, w: i[0] * w),
    ],
    ids=["arrays", "no weights", "lists", "tuple and dict", "dict", "nested lists of numbers"],
)
def test_arrays_come_in_the_structure_in_which_they_were_given(inputs, weights, function):
    assert_match({"torch": function, "jax": function, "numpy": function}, inputs, weights)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_list_stays_a_list(kind):
    def function(inputs, weights):
        assert type(inputs) is kind
        return inputs[0] + inputs[1]

    assert_match({"torch": function, "jax": function}, kind([X, X]))


def test_integers_and_booleans_are_not_rounded():
    inputs = {"x": X, "i": np.array([[2**24 + 1], [3], [4]]), "m": X > 0}

    def function(i, w):
        assert str(i["i"].dtype).removeprefix("torch.").startswith("int")
        assert "bool" in str(i["m"].dtype)
        return i["x"] * i["m"] + (i["i"] % 2)

    assert_match({"torch": function, "jax": function}, inputs)


@pytest.mark.parametrize("outputs", ["tuple", "list", "dict"])
def test_several_outputs_are_compared_each(outputs):
    def function(off):
        def layer(x, w):
            values = {"first": x * w, "second": x + w * (1 + off)}
            return values if outputs == "dict" else (tuple if outputs == "tuple" else list)(values.values())

        return layer

    assert_match({"torch": function(0), "jax": function(0)}, X, V)
    said = fails({"torch": function(0), "jax": function(1e-3)}, X, V, gradients=False)
    assert re.fullmatch(r"jax float32 inputs (second|y1): EXCEEDS_BUDGET, .*", said)


def test_arrays_of_a_framework_are_taken_as_inputs():
    assert_match({"torch": scale, "jax": scale}, torch.tensor(X), jnp.asarray(V))


def test_what_the_caller_passed_stays_as_it_was():
    inputs, weights = {"x": X.copy()}, {"v": V.copy()}

    def function(i, w):
        i["x"] = i["x"] * w.pop("v")
        return i["x"]

    assert_match({"torch": function, "jax": function}, inputs, weights, gradients=False)
    np.testing.assert_array_equal(inputs["x"], X)
    np.testing.assert_array_equal(weights["v"], V)


# --- what is wrong is named ----------------------------------------------------------------------------------------

# By framework: the layer, a thousandth off.
OFF = {
    "torch": lambda x, w: torch.sigmoid(x @ w * 1.001),
    "jax": lambda x, w: jax.nn.sigmoid(x @ w * 1.001),
    "tensorflow": lambda x, w: tf.sigmoid(x @ w * 1.001),
    "numpy": lambda x, w: 1 / (1 + np.exp(-(x @ w * 1.001))),
}


@pytest.mark.parametrize("wrong", OFF)
def test_the_wrong_one_is_named_and_no_other(wrong):
    said = fails(layers(**{wrong: OFF[wrong]}), X, W, reference=layers()["numpy"], gradients=False)
    assert {line.partition(" ")[0] for line in said.splitlines()} == {wrong}


def test_the_place_and_the_share_of_the_budget_are_named():
    def off(x, w):
        return (x * w).at[1, 2].add(0.5)

    said = fails({"torch": scale, "jax": off}, X, V)
    expected, received = X[1, 2] * V[2], X[1, 2] * V[2] + 0.5
    found = re.fullmatch(
        r"jax float32 inputs y: EXCEEDS_BUDGET, (\S+) x the budget at \[1, 2\]: "
        r"expected (\S+), received (\S+), passes from c = \S+",
        said,
    )
    assert float(found[1]) > 1e4
    assert float(found[2]) == pytest.approx(expected, rel=1e-6)
    assert float(found[3]) == pytest.approx(received, rel=1e-6)


def test_it_is_an_assertion_error():
    with pytest.raises(AssertionError, match="jax float32 inputs y: EXCEEDS_BUDGET"):
        assert_match({"torch": scale, "jax": lambda x, w: x * w * 1.01}, X, V)


def test_all_gradients_are_compared():
    """Each by a random cotangent and by ones: five tensors, of which a factor on everything spoils each."""
    said = fails({"torch": scale, "jax": lambda x, w: x * w * 1.01}, X, V)
    tensors = [line.split()[3] for line in said.splitlines()]
    assert tensors == ["y:", "dx:", "dx@ones:", "dw:", "dw@ones:"]


@pytest.mark.parametrize(
    ("name", "detached"),
    [
        ("torch-mine", lambda x, w: x * w.detach()),
        ("jax", lambda x, w: x * jax.lax.stop_gradient(w)),
        ("tensorflow", lambda x, w: x * tf.stop_gradient(w)),
    ],
)
def test_a_detached_gradient_is_found_although_the_output_is_right(name, detached):
    functions = {"torch": scale, name: detached}
    said = fails(functions, X, V)
    assert [line.split()[3] for line in said.splitlines()] == ["dw:", "dw@ones:"]
    assert_match(functions, X, V, gradients=False)


def test_half_precision_sums_are_found_in_half_precision():
    """A mean of equal terms stagnates; the frameworks' own means do not."""
    x = np.full((2, 5000), 1.0)

    def running(x, w):
        total = jnp.zeros(2, x.dtype)
        return jax.lax.fori_loop(0, 5000, lambda i, total: total + x[:, i], total) / 5000

    functions = {"torch": lambda x, w: x.mean(1), "jax": lambda x, w: x.mean(1)}
    assert_match(functions, x, dtype="bfloat16", gradients=False)
    said = fails({**functions, "jax-running": running}, x, dtype="bfloat16", gradients=False)
    assert said.startswith("jax-running bfloat16 inputs y: EXCEEDS_BUDGET")


def test_another_shape_is_named():
    said = fails({"torch": scale, "jax": lambda x, w: (x * w)[:, :1]}, X, V, gradients=False)
    assert said == "jax float32 inputs y: SHAPE_MISMATCH: expected (3, 4), received (3, 1)"


def test_another_dtype_is_named():
    said = fails({"torch": scale, "jax": lambda x, w: (x * w).astype("float16")}, X, V, gradients=False)
    assert said == "jax float32 inputs y: DTYPE_MISMATCH: expected float32, received float16"


def test_a_result_that_is_not_finite_is_named():
    said = fails({"torch": scale, "jax": lambda x, w: (x * w).at[0, 1].set(jnp.inf)}, X, V, gradients=False)
    assert re.fullmatch(r"jax float32 inputs y: NONFINITE_MISMATCH at \[0, 1\]: expected \S+, received inf", said)


def test_nan_of_the_inputs_may_come_out_and_must():
    x = np.where(X[1, 1] == X, np.nan, X)
    assert_match({"torch": scale, "jax": scale}, x, V, gradients=False)
    said = fails({"torch": scale, "jax": lambda x, w: jnp.nan_to_num(x) * w}, x, V, gradients=False)
    assert said.startswith("jax float32 inputs y: NONFINITE_MISMATCH at [1, 1]: expected nan")


def test_an_explanation_of_the_fingerprint_is_added(monkeypatch):
    def explained(tensor, dtype, fingerprint, operations, nonfinite):
        return f"{tensor} is odd in {' '.join(operations)}"

    monkeypatch.setattr("eca_multi.parity.match.explain", explained)
    said = fails({"torch": scale, "jax": lambda x, w: x * w * 1.01}, X, V, gradients=False)
    assert said.endswith(" -> y is odd in mul")


def test_a_cause_is_named_and_another_fault_has_none():
    def dense(x, w):
        return x @ w

    square = np.arange(16).reshape(4, 4) % 5 - 1.7
    said = fails({"torch": dense, "jax": lambda x, w: x @ w.T}, X, square, gradients=False)
    assert re.search(r"\njax matches the reference if weight is transposed \(\S+ of the budget\)$", said)
    assert "matches the reference" not in fails({"torch": dense, "jax": lambda x, w: x @ w * 1.01}, X, square)


def test_a_fingerprint_is_taken_once(monkeypatch):
    calls = []
    monkeypatch.setattr("eca_multi.parity.match.measure", lambda framework: calls.append(1) or {})
    fails({"torch": scale, "jax": lambda x, w: x * w * 1.01}, X, V)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_a_fingerprint_that_fails_hides_no_fault(monkeypatch, error):
    def fingerprint(self):
        raise error("no fingerprint")

    monkeypatch.setattr("eca_multi.parity.match.measure", fingerprint)
    said = fails({"torch": scale, "jax": lambda x, w: x * w * 1.01}, X, V, gradients=False)
    assert "EXCEEDS_BUDGET" in said


def test_what_a_function_raises_comes_through():
    def broken(x, w):
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer") as raised:
        assert_match({"torch": scale, "jax": broken}, X, V)
    assert raised.value.__notes__[0] == "The function 'jax' of parity.assert_match raised this."
    with pytest.raises(KeyError, match="no such layer") as raised:
        assert_match({"torch": broken, "jax": scale}, X, V)
    assert raised.value.__notes__[0].startswith("The function 'torch' of parity.assert_match raised this, as the ref")


# --- the reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "named"),
    [(None, "jax"), ("torch", "jax"), ("torch-off", "torch"), (lambda x, w: x * w, "torch-off")],
    ids=["the first torch function", "by name", "another name", "a NumPy function"],
)
def test_the_reference_decides_who_is_off(reference, named):
    functions = {"jax": lambda x, w: x * w * 1.01, "torch": scale, "torch-off": lambda x, w: x * w * 1.02}
    said = fails(functions, X, V, reference, gradients=False)
    lines = {line.partition(" ")[0] for line in said.splitlines()}
    assert named in lines
    assert "torch-off" in lines or reference == "torch-off"
    assert ("torch" in lines) == (reference == "torch-off")


def test_without_torch_the_first_numpy_function_is_the_reference():
    said = fails({"jax": lambda x, w: x * w * 1.01, "numpy": scale}, X, V, gradients=False)
    assert {line.partition(" ")[0] for line in said.splitlines()} == {"jax"}


def test_a_reference_is_not_compared_unless_it_is_one_of_the_functions():
    calls = []

    def reference(x, w):
        calls.append(np.asarray(x).dtype)
        return x * w

    assert_match({"jax": scale}, X, V, reference, gradients=False)
    assert set(calls) == {np.dtype(np.float64)}


@pytest.mark.parametrize("reference", [None, "jax", "torch", "nobody"])
def test_without_a_reference_there_is_nothing_to_judge_by(reference):
    with pytest.raises(
        SpecError, match=rf"reference must be a NumPy function, .* Received: {reference!r}\. Only those"
    ):
        assert_match({"jax": scale, "tensorflow": scale}, X, V, reference)


@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_a_reference_that_is_nan_is_refused(name):
    nan = {"torch": lambda x, w: x * float("nan"), "numpy": lambda x, w: x * np.nan}
    with pytest.raises(SpecError, match="the reference must be finite for finite inputs"):
        assert_match({name: nan[name], "jax": scale}, X, V, gradients=False)


# --- what is asked wrongly -----------------------------------------------------------------------------------------


def test_an_infinite_budget_lets_nothing_pass(monkeypatch):
    """What equals the reference needs no budget."""
    import eca_multi.parity.match as module

    solve = module._solve

    def boundless(*arguments):
        solution, job, kind = solve(*arguments)
        return {name: (value, np.full_like(error, np.inf)) for name, (value, error) in solution.items()}, job, kind

    monkeypatch.setattr(module, "_solve", boundless)
    x = np.array([0.5, 0.25], np.float32)
    assert_match({"torch": lambda x, w: x * 2}, x, gradients=False)
    with pytest.raises(SpecError, match=r"torch-off .* y: INCONCLUSIVE: .* infinite or NaN at \[0\]"):
        assert_match({"torch": lambda x, w: x * 2, "torch-off": lambda x, w: x * 0 + 42}, x, gradients=False)


def test_a_dtype_must_be_known():
    with pytest.raises(SpecError, match=r"dtype must be one of float32, bfloat16, float16\. Received: 'float64'"):
        assert_match({"torch": scale}, X, V, dtype="float64")


def test_there_must_be_a_function():
    with pytest.raises(SpecError, match=r"functions must hold one at least\. Received: none"):
        assert_match({}, X, V)


@pytest.mark.parametrize("name", ["mxnet", "mine", "tensorflow2"])
def test_a_name_must_say_the_framework(name):
    with pytest.raises(SpecError, match=rf"must have names that start with torch, jax, .* Received: {name!r}"):
        assert_match({"torch": scale, name: scale}, X, V)


# --- weights and inputs of any kind ----------------------------------------------------------------------------


def test_a_scalar_input_is_a_scalar_everywhere():
    assert_match({"torch": lambda i, w: i**2, "jax": lambda i, w: i**2}, np.float32(0.5))


def test_the_example_of_the_docstring_runs():
    functions = {"torch": lambda x, w: x * w.sigmoid(), "numpy": lambda x, w: x / (1 + np.exp(-w))}
    assert_match(functions, np.linspace(-1, 1, 7), np.float32(0.3))


def test_a_state_dict_is_taken_as_weights():
    linear = torch.nn.Sequential(torch.nn.Linear(4, 5))
    functions = {
        "torch": lambda x, w: x @ w["0.weight"].T + w["0.bias"],
        "jax": lambda x, w: x @ w["0.weight"].T + w["0.bias"],
    }
    assert_match(functions, X, linear.state_dict())


@pytest.mark.parametrize("name", ["type", "call", "forward"])
def test_a_weight_may_be_called_as_it_likes(name):
    assert_match({"torch": lambda x, w: x * w[name]}, X, {name: V})


@pytest.mark.parametrize(
    "weights",
    [torch.nn.Parameter(torch.tensor(V)), torch.tensor(V).bfloat16()],
    ids=["requires grad", "bfloat16"],
)
def test_tensors_of_torch_are_taken_as_weights(weights):
    assert_match({"torch": scale, "jax": scale}, X, weights)


def test_a_mask_of_jax_is_taken():
    assert_match({"torch": lambda i, w: i["x"] * i["m"]}, {"x": X, "m": jnp.ones((3, 4), bool)})


def _fill(mask):
    mask[...] = True
    return mask


@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_a_function_that_works_in_place_leaves_the_callers_arrays(name):
    mask = X > 0
    before = mask.copy()
    assert_match({name: lambda i, w: i["x"] * _fill(i["m"])}, {"x": X, "m": mask}, gradients=False)
    np.testing.assert_array_equal(mask, before)


# --- what is no float ----------------------------------------------------------------------------------------------

INDICES = {
    "torch": lambda x, w: (x * w, x.argmax(1), x > 0),
    "jax": lambda x, w: (x * w, jnp.argmax(x, 1), x > 0),
    "tensorflow": lambda x, w: (x * w, tf.argmax(x, 1), x > 0),
    "numpy": lambda x, w: (x * w, x.argmax(1), x > 0),
}


@pytest.mark.parametrize("reference", ["torch", "numpy"])
def test_an_output_of_integers_is_compared_exactly(reference):
    """In JAX they are int32, elsewhere int64: no framework is asked for another's."""
    assert_match(INDICES, X, V, reference, gradients=reference == "torch")
    off = {**INDICES, "jax": lambda x, w: (x * w, jnp.argmax(x, 1).at[1].add(1), x > 0)}
    said = fails(off, X, V, reference, gradients=False)
    index = int(X[1].argmax())
    assert said == f"jax float32 inputs y1: EXCEEDS_BUDGET at [1]: expected {index}, received {index + 1}"


def test_a_float_in_the_place_of_an_integer_is_named():
    off = {**INDICES, "jax": lambda x, w: (x * w, jnp.argmax(x, 1) + 0.0, x > 0)}
    assert fails(off, X, V) == "jax float32 inputs y1: DTYPE_MISMATCH: expected int64, received float32"
    off = {**INDICES, "jax": lambda x, w: ((x * w).astype(int), jnp.argmax(x, 1), x > 0)}
    assert "inputs y0: DTYPE_MISMATCH: expected float32, received int32" in fails(off, X, V)


# --- what cannot be compared ---------------------------------------------------------------------------------------


def test_gradients_that_cannot_be_compared_are_refused_where_they_were_asked_for():
    detached, reference = {"torch": lambda x, w: x * w.detach()}, lambda x, w: x * w
    with pytest.raises(SpecError, match=r"a NumPy reference has no gradients .* torch function as the reference"):
        assert_match(detached, X, V, reference, gradients=True)
    with pytest.warns(UserWarning, match=r"a NumPy reference has no gradients .* torch function as the reference"):
        assert_match(detached, X, V, reference)
    assert_match(detached, X, V, reference, gradients=False)


def test_bfloat16_beside_numpy_is_refused_and_says_so():
    with pytest.raises(SpecError, match=r"numpy cannot compute this: NumPy has no bfloat16 of its own\. Leave it out"):
        assert_match({"torch": scale, "numpy": scale}, X, V, dtype="bfloat16")


def test_a_function_with_another_number_of_outputs_is_named():
    with pytest.raises(SpecError, match=r"jax must return y\. Received: 2 values"):
        assert_match({"torch": scale, "jax": lambda x, w: (x * w, x)}, X, V)


def test_an_input_and_a_weight_of_one_name_are_refused():
    """Of their gradients one would take the other's place."""
    with pytest.raises(SpecError, match=r"results must have names of their own: .* Received: 'da' twice"):
        assert_match({"torch": lambda i, w: i["a"] * w["a"]}, {"a": X}, {"a": V})


def test_an_output_with_the_name_of_a_gradient_is_refused():
    with pytest.raises(SpecError, match=r"results must have names of their own: .* Received: 'dx' twice"):
        assert_match({"torch": lambda x, w: {"y": x, "dx": x}}, X)
