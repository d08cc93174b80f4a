"""`assert_close`: two arrays, the budget or tolerance between them, and the worst element by name."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from eca_multi.parity import ParityError, SpecError, assert_close


@pytest.mark.parametrize(
    ("actual", "options"),
    [
        (np.float32([1, 2]), {"budget": 1e-6}),
        (np.float32([1, 2 + 0.9e-3]), {"budget": 1e-3}),
        (np.float32([1, 2 + 0.9e-3]), {"budget": [0, 1e-3]}),
        (np.float32([1, 2 + 0.9e-3]), {"atol": 1e-3}),
        (np.float32([1, 2 + 1.9e-3]), {"rtol": 1e-3}),
        (np.float32([1 + 1.4e-3, 2]), {"rtol": 1e-3, "atol": 0.5e-3}),
        ([1.0, 2.0], {"budget": 0.0}),
        (torch.tensor([1.0, 2.0], requires_grad=True), {"budget": 1e-6}),
        (torch.tensor([1.0, 2.0]).bfloat16().requires_grad_(), {"budget": 1e-6}),
        (jnp.asarray([1.0, 2.0], "bfloat16"), {"budget": 1e-6}),
        (tf.constant([1.0, 2.0]), {"budget": 1e-6}),
        (np.array([1, 2]), {"budget": 1e-6}),
    ],
    ids=[
        "equal",
        "within",
        "by element",
        "atol",
        "rtol",
        "both",
        "exact",
        "torch",
        "torch bf16",
        "jax",
        "tensorflow",
        "integers",
    ],
)
def test_an_array_within_its_budget_passes(actual, options):
    assert_close(actual, [1.0, 2.0], **options)


@pytest.mark.parametrize(
    ("actual", "options", "said"),
    [
        ([1, 2.0011], {"budget": 1e-3}, r"EXCEEDS_BUDGET, 1\.10 x the budget at \[1\]: expected 2, received 2\.0011"),
        ([1.0011, 2.0009], {"budget": 1e-3}, r"EXCEEDS_BUDGET, 1\.10 x the budget at \[0\]"),
        ([1, 2 + 1e-9], {"budget": [1, 0]}, r"EXCEEDS_BUDGET at \[1\]"),
        ([1, 2.0021], {"rtol": 1e-3}, r"EXCEEDS_BUDGET, 1\.05 x the tolerance set by hand at \[1\]"),
        ([1.0011, 2], {"atol": 1e-3}, r"EXCEEDS_BUDGET, 1\.10 x the tolerance set by hand at \[0\]"),
        ([1, np.nan], {"budget": 9}, r"NONFINITE_MISMATCH at \[1\]: expected 2, received nan"),
        ([1, np.inf], {"budget": 9}, r"NONFINITE_MISMATCH at \[1\]: expected 2, received inf"),
        ([1, 2, 3], {"budget": 9}, r"SHAPE_MISMATCH: expected \(2,\), received \(3,\)"),
        ([[1, 2]], {"budget": 9}, r"SHAPE_MISMATCH: expected \(2,\), received \(1, 2\)"),
    ],
    ids=["above", "the worst", "by element", "rtol", "atol", "nan", "inf", "longer", "rank"],
)
def test_an_array_off_is_named_with_its_worst_element(actual, options, said):
    with pytest.raises(ParityError, match=f"actual float64 ref64 array: {said}"):
        assert_close(np.array(actual, np.float64), [1.0, 2.0], **options)


def test_equal_infinities_agree():
    assert_close(np.float32([np.inf, np.nan]), [np.inf, np.nan], budget=1e-6)
    with pytest.raises(ParityError, match=r"NONFINITE_MISMATCH at \[0\]: expected inf, received -inf"):
        assert_close(np.float32([-np.inf, np.nan]), [np.inf, np.nan], budget=1e-6)


@pytest.mark.parametrize("options", [{}, {"budget": 1.0, "rtol": 1.0}, {"budget": 1.0, "atol": 1.0}], ids=str)
def test_one_measure_must_be_given(options):
    with pytest.raises(SpecError, match="either budget or rtol and atol must be given"):
        assert_close([1.0], [1.0], **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": -1e-9}, r"the budget must be 0 or more, and finite, in every element\. Received: -1e-09"),
        ({"budget": np.nan}, r"the budget must be 0 or more, and finite, in every element\. Received: nan"),
        ({"budget": np.inf}, r"the budget must be 0 or more, and finite, in every element\. Received: inf"),
        ({"budget": [1.0, -1.0]}, r"the budget must be 0 or more, and finite, in every element\. Received: -1\.0"),
        ({"atol": -1.0}, r"rtol and atol must be 0 or more, and finite\. Received: atol=-1\.0"),
        ({"rtol": -1.0}, r"rtol and atol must be 0 or more, and finite\. Received: rtol=-1\.0"),
        ({"rtol": np.inf}, r"rtol and atol must be 0 or more, and finite\. Received: rtol=inf"),
        ({"rtol": np.nan}, r"rtol and atol must be 0 or more, and finite\. Received: rtol=nan"),
        ({"budget": np.ones(3)}, r"the budget must have a shape that broadcasts to .*\(2,\)\. Received: \(3,\)"),
    ],
    ids=str,
)
def test_a_budget_that_is_no_largest_error_is_refused(options, said):
    with pytest.raises(SpecError, match=said):
        assert_close([1.0, 2.0], [1.0, 5.0], **options)


def test_a_budget_may_be_nan_where_the_reference_is_not_finite():
    """As that of an error analysis is."""
    assert_close(np.float32([1.0, np.inf]), [1.0, np.inf], budget=[1e-6, np.nan])
