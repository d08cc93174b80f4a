"""The stochastic budget of eager TensorFlow: what each operation is charged, backward passes, and what is refused."""

import pkgutil

import numpy as np
import pytest

from eca_multi.parity import SpecError
from tests.support.budgets import TINY, U_ACC, C

tf = pytest.importorskip("tensorflow")
from eca_multi.parity.budget.tensorflow_noise import TensorFlowNoise, budget  # noqa: E402  # needs TensorFlow
from eca_multi.parity.engines._private_tensorflow import PRIVATE_NAMES  # noqa: E402  # needs TensorFlow

X = np.random.default_rng(0).normal(size=(6, 5, 8))
K = np.abs(np.random.default_rng(1).normal(size=(3, 8, 4)))


def errors(f, *xs, u=0.0, u_acc=0.0, tiny=0.0):
    return budget(lambda: {"y": f(*map(tf.constant, xs))}, u, u_acc, tiny)[1]["y"]


def test_each_operation_is_charged_its_roundings():
    def several():
        x = tf.constant(X)
        exact = tf.transpose(tf.sort(x, 1)[::-1, 1:])
        return {
            "add": x + 1,
            "exp": tf.exp(x),
            "square": tf.square(x),
            "exact": exact,
            "int": x > 0,
            "one": sums(x[:1]),
        }

    def sums(x):
        return tf.reduce_sum(x, 0)  # of one term, which TensorFlow does not copy

    values, found = budget(several, 2.0**-8, U_ACC, 0.0)
    np.testing.assert_allclose(found["add"], 2.0**-8 * np.abs(X + 1), rtol=1e-9)
    np.testing.assert_allclose(found["exp"], 2 * 2.0**-8 * np.exp(X), rtol=1e-9)
    np.testing.assert_allclose(found["square"], 2.0**-8 * X**2, rtol=1e-9)
    for name in ("exact", "one"):
        np.testing.assert_array_equal(found[name], 2.0**-8 * np.abs(values[name]))  # E's own least
    assert values["int"].dtype == bool


SUMS = {
    "sum": (lambda x: tf.reduce_sum(x, (0, 2)), 48),
    "mean": (lambda x: tf.reduce_mean(x, (0, 2)), 48),
    "dot": (lambda x: tf.matmul(x, K[0]), 8),
    "einsum": (lambda x: tf.einsum("nlc,kco->nko", x, K), 40),
    "conv": (lambda x: tf.nn.conv1d(x, K, 1, "VALID"), 24),
    "window": (lambda x: tf.nn.avg_pool1d(x, 2, 1, "VALID"), 2),
    "scatter": (lambda x: tf.math.unsorted_segment_sum(x, tf.constant([0, 1] * 3), 2), 3),
}


@pytest.mark.parametrize(("f", "n"), SUMS.values(), ids=SUMS)
def test_a_sum_is_charged_the_root_of_its_length_times_its_terms(f, n):
    expected = U_ACC * np.sqrt(n) * f(tf.constant(np.abs(X))).numpy()
    np.testing.assert_allclose(errors(f, X, u_acc=U_ACC), expected, rtol=1e-6)


def test_the_backward_pass_rounds_and_so_do_the_steps_of_a_loop_and_of_a_function():
    x = tf.constant(X)

    @tf.function
    def compiled(x):
        return x * 1.5

    def evaluate():
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, y = tf.while_loop(lambda i, c: i < 3, lambda i, c: (i + 1, compiled(c)), (0, x))
        return {"y": y, "dx": tape.gradient(y, x)}

    values, found = budget(evaluate, 2.0**-24, 0.0, 0.0)
    np.testing.assert_allclose(values["y"], X * 1.5**3, rtol=1e-14)
    for name in ("y", "dx"):
        units = found[name] / (2.0**-24 * np.abs(values[name]))
        assert 2.5 < units.max() <= 3.001


def gradients(f, tensors, cotangent, dtype):
    inputs = {name: tf.constant(tensor, dtype) for name, tensor in tensors.items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = f(**inputs)
    found = tape.gradient(y, inputs, tf.constant(cotangent, dtype))
    return {"y": y, **{f"d{name}": gradient for name, gradient in found.items()}}


def attention(x, w, scale=8**-0.5):
    q, k, v = tf.unstack(tf.einsum("nlc,cpd->pnld", x, w))
    return tf.matmul(tf.nn.softmax(scale * tf.matmul(q, k, transpose_b=True)), v)


def test_the_budget_lets_float32_through_and_refuses_a_wrong_scale():
    rng = np.random.default_rng(2)
    tensors = {"x": rng.normal(size=(2, 6, 8)), "w": rng.normal(size=(8, 3, 8)) / 3}
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    cotangent = rng.normal(size=(2, 6, 8)).astype(np.float32)
    reference, found = budget(lambda: gradients(attention, tensors, cotangent, tf.float64), 2.0**-24, U_ACC, TINY)
    right = gradients(attention, tensors, cotangent, tf.float32)
    wrong = gradients(lambda x, w: attention(x, w, 0.35357), tensors, cotangent, tf.float32)
    for name, value in reference.items():
        limit = C * found[name]
        assert (np.abs(right[name].numpy() - value) <= limit).all(), name
        assert (np.abs(wrong[name].numpy() - value) > limit).any(), name
        assert np.median(limit / np.abs(value)) < 1e-4, name


def test_nothing_that_the_caller_holds_is_written_to():
    x, variable = tf.constant(X), tf.Variable(X)
    noise = TensorFlowNoise(0.5, 0.5, 0.5)
    with noise.on():
        held = [tf.reshape(x, (-1,)), tf.reduce_sum(x[None], 0), tf.identity(variable), variable + 0.0]
    for tensor in (x, variable):
        np.testing.assert_array_equal(tensor.numpy(), X)
    np.testing.assert_array_equal(held[0].numpy(), X.ravel())
    assert np.abs(held[3].numpy() - X).mean() > 0.1  # the negative control
    np.testing.assert_array_equal((x + 0.0).numpy(), X)  # and the noise ends with the block


def test_operations_that_no_table_has_round_once_and_are_named():
    noise = TensorFlowNoise(2.0**-8, 0.0, 0.0)
    with noise.on():
        tf.linalg.cholesky(tf.eye(3, dtype=tf.float64))
    assert noise.unknown_ops == {"Cholesky"}


def test_what_draws_random_numbers_or_has_no_gradient_outside_of_xla_is_refused():
    with pytest.raises(RuntimeError, match="random numbers, which the float64 reference cannot repeat"):
        budget(lambda: {"y": tf.random.normal((3,))}, 0.0, 0.0, 0.0)

    def grouped():
        x = tf.constant(np.ones((1, 5, 5, 6)))
        return gradients(
            lambda x: tf.nn.conv2d(x, np.ones((3, 3, 2, 6)), 1, "VALID"), {"x": x}, np.ones((1, 3, 3, 6)), x.dtype
        )

    with pytest.raises(SpecError, match=r"Gradients for grouped convolutions are not supported.*KERAS_BACKEND=torch"):
        budget(grouped, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_the_installed_tensorflow_has_the_private_name(name):
    pkgutil.resolve_name(name)
    assert len(PRIVATE_NAMES[name].split()) >= 8, "say the reason and the public way that was tried"
