"""LazyECA: what it becomes, how it is copied and loaded, and what leaves it lazy."""

import numpy as np
import pytest
import torch

from eca_multi.torch import ECA, LazyECA
from tests.support.layers_torch import COPIES, ROUNDING, draw, oracle


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 7},
        {"gamma": 1, "beta": 3},
        {"shared": False, "padding": "circular", "gate": "2sigmoid"},
        {"init": "identity", "gate": "2sigmoid"},
        {"channel_axis": -1, "dtype": torch.float64},
    ],
    ids=str,
)
def test_lazy_becomes_the_eca_that_knew_its_channels(options):
    lazy = LazyECA(**options)
    torch.manual_seed(7)
    lazy(torch.ones(2, 20, 3, 20))  # 20 at axis 1 and at axis -1
    torch.manual_seed(7)
    eager = ECA(20, **options)
    assert type(lazy) is ECA
    assert type(lazy.conv) is type(eager.conv)
    assert repr(lazy) == repr(eager)
    assert lazy.__dict__.keys() == eager.__dict__.keys()
    assert lazy.conv.weight.dtype == eager.conv.weight.dtype
    assert torch.equal(lazy.conv.weight, eager.conv.weight)  # the same draw, so the same distribution


@pytest.mark.parametrize("before", ["deepcopy", "pickle"])
def test_lazy_is_copied_before_its_first_call(before):
    lazy = LazyECA(7, padding="circular")
    twin = COPIES[before](lazy)
    twin(torch.ones(2, 20, 3, 5))
    assert type(twin) is ECA
    assert type(lazy) is LazyECA
    assert (twin.channels, twin.kernel_size, twin.padding) == (20, 7, "circular")
    lazy(torch.ones(2, 12, 3, 5))
    assert lazy.channels == 12


def test_lazy_takes_a_state_dict(rng):
    x, weight = draw(rng, kernel=(1, 1, 5))  # not the k = 3 of the rule: a checkpoint knows its own
    lazy = LazyECA(dtype=torch.float64)
    lazy.load_state_dict({"conv.weight": weight}, strict=True)
    torch.testing.assert_close(lazy(x), oracle(x, weight), **ROUNDING)
    assert type(lazy) is ECA
    assert (lazy.channels, lazy.kernel_size) == (10, 5)
    assert torch.equal(lazy.conv.weight, weight)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_lazy_with_a_state_dict_is_copied_before_its_first_call(copied, rng):
    x, weight = draw(rng, kernel=(1, 1, 5))
    lazy = LazyECA(dtype=torch.float64)
    lazy.load_state_dict({"conv.weight": weight})
    torch.testing.assert_close(copied(lazy)(x), oracle(x, weight), **ROUNDING)


def test_lazy_state_goes_into_another_lazy():
    state = LazyECA().state_dict()
    assert list(state) == ["conv.weight"]
    other = LazyECA()
    other.load_state_dict(state, strict=True)
    assert type(other) is LazyECA
    assert other(torch.ones(2, 20, 3, 5)).shape == (2, 20, 3, 5)


BAD_FIRST_INPUTS = {
    "rank 2": (torch.ones(2, 20), {}, ValueError, "of rank 3 or more"),
    "axis out of range": (torch.ones(2, 20, 3), {"channel_axis": 3}, ValueError, "channel_axis must be in"),
    "channels on the batch axis": (torch.ones(2, 20, 3), {"channel_axis": -3}, ValueError, "batch axis 0"),
    "empty extent": (torch.ones(2, 20, 0, 5), {}, ValueError, "non-empty in every spatial axis"),
    "no channels": (torch.ones(2, 0, 3, 5), {}, ValueError, "x must be of one channel or more"),
    "integers": (torch.ones(2, 20, 3, 5, dtype=torch.int64), {}, TypeError, "x must be a real floating-point"),
    "no tensor": (np.ones((2, 20, 3, 5)), {}, TypeError, "x must be a real floating-point"),
    "circular wider than C": (
        torch.ones(2, 2, 3, 5),
        {"kernel_size": 9, "padding": "circular"},
        ValueError,
        "kernel_size must be at most",
    ),
}


def test_a_bad_first_mask_leaves_it_lazy():
    lazy = LazyECA()
    with pytest.raises(TypeError, match="mask must be a boolean tensor"):
        lazy(torch.ones(2, 20, 3, 5), mask=torch.ones(2, 3, 5))
    assert lazy.has_uninitialized_params()


def test_resetting_a_lazy_layer_is_nothing_yet():
    lazy = LazyECA()
    lazy.reset_parameters()
    assert lazy.has_uninitialized_params()


@pytest.mark.parametrize(("x", "options", "error", "match"), BAD_FIRST_INPUTS.values(), ids=BAD_FIRST_INPUTS)
def test_a_bad_first_input_leaves_it_lazy(x, options, error, match):
    lazy = LazyECA(**options)
    with pytest.raises(error, match=match):
        lazy(x)
    assert type(lazy) is LazyECA
    assert lazy.has_uninitialized_params()
    if "channel_axis" not in options:
        lazy(torch.ones(2, 12, 3, 5))  # and a good one still counts as the first
        assert lazy.channels == 12


def test_an_input_that_does_not_fit_the_state_dict_leaves_it_lazy():
    lazy = LazyECA(shared=False)
    lazy.load_state_dict({"conv.weight": torch.zeros(10, 1, 3)})
    with pytest.raises(ValueError, match=r"10 kernels \(shape \(10, 1, 3\)\) for 12 channels"):
        lazy(torch.ones(2, 12, 3, 5))
    assert lazy(torch.ones(2, 10, 3, 5)).shape == (2, 10, 3, 5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"kernel_size": 0}, ValueError, r"kernel_size must be an odd positive integer\. Received: kernel_size=0"),
        ({"kernel_size": 4}, ValueError, r"kernel_size must be an odd positive integer\. Received: kernel_size=4"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size must be an odd positive integer"),
        ({"gamma": 0}, ValueError, "gamma must be a finite number > 0"),
        ({"beta": -1}, ValueError, "beta must be a finite number >= 0"),
        ({"padding": "reflect"}, ValueError, "padding must be 'zeros' or 'circular'"),
        ({"gate": "tanh"}, ValueError, "gate must be 'sigmoid'"),
        ({"init": "identity"}, ValueError, "gate must be '2sigmoid' when init='identity'"),
        ({"channel_axis": 1.0}, TypeError, "channel_axis must be an integer"),
    ],
    ids=str,
)
def test_lazy_rejects_bad_options_at_construction(options, error, match):
    with pytest.raises(error, match=match):
        LazyECA(**options)
