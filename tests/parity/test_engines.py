"""The engines: what a layer gets, what comes back under its name, and outputs that are not as declared."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from eca_multi.parity import (
    Adapter,
    JaxAdapter,
    SpecError,
)
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.tensor import labelled
from eca_multi.parity.engines.base import Unsupported
from tests.support.everything import (
    ALL,
    LAYERS,
    SPEC,
    Function,
    Jax,
    Keras,
    Linen,
    Nnx,
    Numpy,
    Torch,
    assert_agree,
    engine,
    expected,
    job_of,
    name_of,
    variant,
    without_taps,
)


@cache
def evaluated(adapter):
    """A job, the same as it was before, and its results: each test looks at one side of the same evaluation."""
    job = job_of(SPEC, twice=True)
    return job, deepcopy(job), labelled(engine(adapter).evaluate(job))


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_results_and_gradients_come_back_under_their_names_in_the_specifications_order(adapter):
    job, _, results = evaluated(adapter)
    results = {name: tensor for name, tensor in results.items() if not name.endswith("@again")}
    truth = without_taps(expected(job))
    truth |= {f"{n}@ones": a for n, a in expected(job, ones=True).items() if n in ("dx", "dkernel", "dbias")}
    assert set(results) == set(truth)  # taps were not asked for
    assert_agree(results, truth)


@pytest.mark.parametrize("adapter", [a for a in ALL if a is not Numpy], ids=name_of)
def test_taps_and_their_gradients_come_from_sub_layers_and_from_tap(adapter):
    job = job_of(SPEC, taps=("logits", "gate"))
    assert_agree(labelled(engine(adapter).evaluate(job)), expected(job))


@pytest.mark.parametrize("adapter", [Torch, pytest.param(Keras, marks=pytest.mark.keras), Jax, Numpy], ids=name_of)
def test_without_gradients_there_are_outputs_alone(adapter):
    assert set(labelled(engine(adapter).evaluate(job_of(SPEC, gradients=False)))) == {"y", "score"}


@pytest.mark.keras
def test_a_keras_layer_gets_its_inputs_in_the_specifications_order():
    """JAX sorts a dict by its keys; these are not sorted."""
    adapter = variant(Keras, call=lambda self, layer, inputs, config: layer(*inputs.values()))
    job = job_of(SPEC)
    assert list(job.inputs) != sorted(job.inputs)
    assert_agree(labelled(engine(adapter).evaluate(job)), without_taps(expected(job)))


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_a_second_run_on_the_same_data_has_the_same_bits(adapter):
    _, _, results = evaluated(adapter)
    for name in ("y", "score", "dx", "dkernel", "dbias"):
        np.testing.assert_array_equal(results[name].values, results[f"{name}@again"].values)


@pytest.mark.parametrize("wrong", ["kernel: C O -> C O", "kernel"])
def test_a_square_kernel_that_is_not_transposed_is_seen(wrong):
    """The control: what fits by its shape alone does not pass."""
    job = job_of(SPEC)
    adapter = variant(Torch, weights={**Torch.weights, "dense.weight": wrong})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_agree(labelled(engine(adapter).evaluate(job)), without_taps(expected(job)))


@pytest.mark.parametrize("layout", ["NCWH", "NWHC"])
def test_a_mask_in_another_order_is_seen(layout):
    """H and W exchanged, for the input and its mask alike, is the same layer; for one of them it is not."""
    adapter = variant(Function, layout=layout) if layout == "NWHC" else variant(Torch, layout=layout)
    job = job_of(SPEC)
    assert_agree(labelled(engine(adapter).evaluate(job)), without_taps(expected(job)))
    spoilt = replace(job, axes={**job.axes, "mask": ("H", "N", "W")})
    with pytest.raises(Exception, match=r"must match the size|could not broadcast|Not equal"):
        assert_agree(labelled(engine(adapter).evaluate(spoilt)), without_taps(expected(job)))


@pytest.mark.parametrize("adapter", ALL, ids=name_of)
def test_the_inputs_of_a_job_are_left_as_they_are(adapter):
    job, before, _ = evaluated(adapter)
    for group in ("inputs", "weights", "cotangents"):
        for name, array in getattr(before, group).items():
            np.testing.assert_array_equal(getattr(job, group)[name], array)


@pytest.mark.parametrize("adapter", LAYERS, ids=name_of)
def test_weights_survive_the_frameworks_own_file_bit_for_bit(adapter):
    job = job_of(SPEC)
    results = labelled(engine(adapter).roundtrip(job))
    assert set(results) == {"kernel", "bias"}
    for name, tensor in results.items():
        np.testing.assert_array_equal(tensor.values, job.weights[name])


@pytest.mark.parametrize("adapter", [Torch, Linen, Nnx], ids=name_of)
def test_inputs_are_passed_in_the_specifications_order(adapter):
    """By the adapter's own `call`, which passes them by position."""
    job = job_of(SPEC)
    plain = variant(adapter, call=Adapter.call)
    assert_agree(labelled(engine(plain).evaluate(job)), without_taps(expected(job)))


def test_too_few_outputs_are_refused():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: layer(*inputs.values())[0])
    with pytest.raises(SpecError, match=r"Torch must return y, score\. Received: 1 values"):
        labelled(engine(adapter).evaluate(job_of(SPEC)))


def test_an_output_of_another_rank_comes_back_as_it_is():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: (inputs["x"].sum(), layer(*inputs.values())[1]))
    assert labelled(engine(adapter).evaluate(job_of(SPEC)))["y"].values.shape == ()


def test_a_weight_that_nothing_depends_on_has_gradient_zero():
    adapter = variant(Torch, call=lambda self, layer, inputs, config: (inputs["x"] * 2, inputs["x"].mean((1, 2, 3))))
    results = labelled(engine(adapter).evaluate(job_of(SPEC)))
    assert not results["dkernel"].values.any()
    assert results["dx"].values.any()


@pytest.mark.parametrize(
    ("precision", "error", "text"),
    [
        # `jax.nn.dot_product_attention` asks for the first one in float16, and JAX compiles it for no CPU.
        ("F16_F16_F32", Unsupported, "JAX compiles no such product on this machine: .*F16_F16_F32"),
        ("no precision", ValueError, "no precision"),
    ],
)
def test_a_product_that_jax_refuses_to_compile_is_unsupported_and_a_fault_of_the_layer_is_not(precision, error, text):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "cpu":
        pytest.skip("on this device JAX has the product")

    class Product(JaxAdapter):
        def build(self, config):
            known = getattr(jax.lax.DotAlgorithmPreset, precision, precision)
            return lambda inputs, weights: jax.numpy.matmul(inputs["x"], inputs["x"], precision=known)

    job = Job("product", "float16", {}, {}, ("y",), gradients=False, inputs={"x": np.eye(2)})
    with pytest.raises(error, match=text):
        engine(Product).evaluate(job)
