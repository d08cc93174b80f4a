"""The torch layer under what PyTorch does to a module: state, devices, memory formats, autocast.

All is float64 unless a test says otherwise, and compared with the float64 oracle.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eca_multi.torch import ECA, LazyECA
from tests.support.layers_torch import COPIES, ROUNDING, draw, on_both, oracle, saved, with_weight


class OriginalECA(nn.Module):
    """What the original code and timm compute, and the state dict that both have."""

    def __init__(self, k):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1)
        logits = self.conv(pooled.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * logits.sigmoid().expand_as(x)


@pytest.mark.parametrize("layer_type", [ECA, LazyECA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_that_of_the_parameter(layer_type, dtype):
    layer = ECA(20, dtype=dtype) if layer_type is ECA else LazyECA(dtype=dtype)
    layer(torch.ones(2, 20, 3, 5))
    assert layer.conv.weight.dtype == dtype


def test_device_context_and_argument_place_the_parameter():
    with torch.device("meta"):
        assert ECA(20).conv.weight.is_meta
    assert ECA(20, device="meta").conv.weight.is_meta
    assert ECA(20, device="cpu").conv.weight.device == torch.device("cpu")


@pytest.mark.parametrize(("shared", "shape"), [(True, (1, 1, 5)), (False, (20, 1, 5))])
def test_state_dict_is_one_weight(shared, shape):
    state = ECA(20, 5, shared=shared).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"conv.weight": shape}


@pytest.mark.parametrize("k", [1, 3, 9])
def test_reset_parameters_draws_uniformly_within_one_over_sqrt_k(k):
    layer = ECA(3000, k, shared=False)
    first = layer.conv.weight.detach().clone()
    layer.reset_parameters()
    again = layer.conv.weight.detach()
    assert not torch.equal(first, again)
    bound = k**-0.5
    for weight in (first, again):
        assert weight.abs().max() <= bound
        # 3000 or more uniform draws: the largest is within 1 % of the bound but for a chance of 0.99**3000 = 1e-13,
        # and the standard error of the mean is bound / sqrt(3 * 3000), so that 6 of them are 0.064 bounds.
        assert weight.abs().max() > 0.99 * bound
        assert weight.mean().abs() < 0.064 * bound


def test_reset_parameters_of_identity_draws_zeros():
    layer = ECA(20, init="identity", gate="2sigmoid")
    with torch.no_grad():
        layer.conv.weight.fill_(7)
    layer.reset_parameters()
    assert not layer.conv.weight.any()


def test_repr_tells_every_option():
    layer = ECA(20, 5, padding="circular", gate="2sigmoid", shared=False, init="identity", channel_axis=-1)
    assert repr(layer) == (
        "ECA(\n"
        "  20, kernel_size=5, padding='circular', gate='2sigmoid', shared=False, init='identity', channel_axis=-1\n"
        "  (conv): ChannelKernel(weight (20, 1, 5))\n"
        ")"
    )
    assert "weight not known yet" in repr(LazyECA())


def test_meta_layer_knows_shapes_and_comes_to_life():
    layer = ECA(20, device="meta")
    assert layer(torch.empty(2, 20, 3, 5, device="meta")).shape == (2, 20, 3, 5)
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert 0 < layer.conv.weight.abs().max() <= 3**-0.5


def test_meta_layer_takes_a_state_dict_by_assignment(rng):
    x, weight = draw(rng)
    layer = ECA(10, device="meta")
    layer.load_state_dict({"conv.weight": weight}, assign=True)
    torch.testing.assert_close(layer(x), oracle(x, weight), **ROUNDING)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_independent(copied, rng):
    x, weight = draw(rng, kernel=(10, 1, 3))
    options = {"padding": "circular", "gate": "2sigmoid"}
    layer = with_weight(ECA(10, shared=False, dtype=torch.float64, **options), weight)
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    with torch.no_grad():
        layer.conv.weight.zero_()
    torch.testing.assert_close(twin(x), oracle(x, weight, **options), **ROUNDING)


def test_state_dict_is_safe_to_unpickle():
    layer = ECA(20)
    state = saved(layer.state_dict(), weights_only=True)
    assert torch.equal(state["conv.weight"], layer.conv.weight)


def test_state_dict_of_the_original_loads_and_gives_its_output(rng):
    x, weight = draw(rng)
    original = with_weight(OriginalECA(3).double(), weight)
    layer = ECA(10, dtype=torch.float64)
    layer.load_state_dict(original.state_dict(), strict=True)
    torch.testing.assert_close(layer(x), oracle(x, weight), **ROUNDING)
    torch.testing.assert_close(layer(x), original(x), **ROUNDING)
    original.load_state_dict(layer.state_dict(), strict=True)  # and back


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"conv.weight": torch.zeros(1, 1, 5)}, r"size mismatch for conv\.weight"),
        ({"weight": torch.zeros(1, 1, 3)}, r"Missing key.*conv\.weight"),
        ({"conv.weight": torch.zeros(1, 1, 3), "conv.bias": torch.zeros(1)}, r"Unexpected key.*conv\.bias"),
    ],
    ids=["other k", "missing", "unexpected"],
)
def test_a_foreign_state_dict_is_refused(state, match):
    with pytest.raises(RuntimeError, match=match):
        ECA(20).load_state_dict(state)


def test_initialisers_of_convolutions_leave_the_kernel_alone():
    model = nn.Sequential(nn.Conv1d(20, 20, 3), ECA(20))
    before = model[1].conv.weight.detach().clone()

    def initialise(module):
        if isinstance(module, nn.Conv1d):
            nn.init.constant_(module.weight, 7)

    model.apply(initialise)
    assert torch.equal(model[1].conv.weight, before)
    assert (model[0].weight == 7).all()  # the initialiser does work


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((2, 10, 3, 5), torch.channels_last), ((2, 10, 3, 5, 4), torch.channels_last_3d)],
    ids=["4-D", "5-D"],
)
@pytest.mark.parametrize("masked", [False, True])
@on_both
def test_memory_format_is_kept(shape, memory_format, masked, rng):
    x, weight = draw(rng, shape)
    mask = torch.from_numpy(rng.random((2, *shape[2:])) < 0.7) if masked else None
    layer = with_weight(ECA(10, dtype=torch.float64), weight)
    cotangent = torch.from_numpy(rng.normal(size=shape))
    for form in (memory_format, torch.contiguous_format):
        leaf = x.clone(memory_format=form).requires_grad_()
        y = layer(leaf, mask)
        y.backward(cotangent.clone(memory_format=form))
        assert y.is_contiguous(memory_format=form)
        assert leaf.grad.is_contiguous(memory_format=form)
        options = {"mask": mask.numpy()} if masked else {}
        torch.testing.assert_close(y.contiguous(), oracle(x, weight, **options), **ROUNDING)


@on_both
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("x_is_low", [False, True])
def test_autocast_changes_neither_dtypes_nor_bits(low, x_is_low, rng):
    x, weight = draw(rng)
    x = x.to(low if x_is_low else torch.float32)
    layer = with_weight(ECA(10), weight.float())

    def run():
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.float().square().sum().backward()
        return y, leaf.grad, layer.conv.weight.grad

    plain = run()
    with torch.autocast("cpu", dtype=low):
        assert F.linear(x.float(), x.float()[0, 0]).dtype == low  # autocast is on: a matrix product is lowered
        cast = run()
    assert [t.dtype for t in cast] == [x.dtype, x.dtype, torch.float32]
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_autocast_narrows_no_gate_of_one_sample(padding, rng):
    """One sample's convolution may be conv1d, which autocast narrows: bfloat16 would be off by a thousandth."""
    x, weight = draw(rng, (1, 10, 5, 7))
    layer = with_weight(ECA(10, padding=padding), weight.float())
    with torch.no_grad():
        plain = layer(x.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.conv1d(x[0].float(), torch.ones(1, 5, 1)).dtype == torch.bfloat16
            torch.testing.assert_close(layer(x.float()), plain, rtol=2**-20, atol=2**-20)
