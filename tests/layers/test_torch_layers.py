"""The torch layer under what PyTorch can do to a module: state, devices, derivatives, autocast, compilers, export.

Everything here is float64 unless it says otherwise, and compared with the float64 oracle.
"""

import copy
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, hessian, jvp, vmap

from eca_multi import reference
from eca_multi.torch import ECA, LazyECA, _feature_map, _fused, eca

# float64 rounds at 1e-16 and the longest sum has 210 terms of size 1; a wrong formula is off by 1e-3 or more.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
# Central differences with a step of 1e-5: truncation 1e-10, cancellation 1e-16 / 1e-5.
STEP = 1e-5
DIFFERENCES = {"rtol": 1e-7, "atol": 1e-8}


def draw(rng, shape=(2, 10, 3, 5), kernel=(1, 1, 3)):
    """A feature map with an offset for each channel, and an asymmetric kernel."""
    offsets = rng.uniform(-2, 2, (1, shape[1]) + (1,) * (len(shape) - 2))
    return torch.from_numpy(rng.normal(size=shape) + offsets), torch.from_numpy(rng.normal(size=kernel))


def canonical(weight):
    """(1, 1, k) to (k,) and (C, 1, k) to (C, k), as the oracle takes it."""
    array = weight.detach().double().numpy()[:, 0]
    return array[0] if len(array) == 1 else array


def oracle(x, weight, **options):
    return torch.from_numpy(reference.forward(x.detach().numpy(), canonical(weight), **options).y)


def oracle_grads(x, weight, cotangent, **options):
    grads = reference.backward(x.detach().numpy(), canonical(weight), cotangent.numpy(), **options)
    return torch.from_numpy(grads.dx), torch.from_numpy(grads.dw).reshape(weight.shape)


def with_weight(layer, weight):
    layer.load_state_dict({"conv.weight": weight})
    return layer


@pytest.fixture(params=["native", "fused"])
def code(request, monkeypatch):
    """Autograd's code, or that with a backward of its own: for small tensors and float64 too, and in many blocks."""
    fused = request.param == "fused"
    monkeypatch.setattr(_fused, "SMALL", 0 if fused else 1 << 62)
    monkeypatch.setattr(_fused, "DTYPES", (*_fused.DTYPES, torch.float64))
    monkeypatch.setattr(_feature_map, "BLOCK", 16)
    return request.param


on_both = pytest.mark.usefixtures("code")


class OriginalECA(nn.Module):
    """What the original code and timm compute, and the state dict that both have."""

    def __init__(self, k):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1)
        logits = self.conv(pooled.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * logits.sigmoid().expand_as(x)


# --- construction and state ---------------------------------------------------------------------------------------


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


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: _saved(layer, weights_only=False),
}


def _saved(value, weights_only):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


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
    state = _saved(layer.state_dict(), weights_only=True)
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


# --- derivatives --------------------------------------------------------------------------------------------------

SMALL = (2, 5, 2, 3)
MASK = np.array([[[True, False, True], [False, True, True]], [[False] * 3] * 2])  # the second sample has no position

DERIVATIVES = [
    pytest.param((1, 1, 3), {}, id="zeros"),
    pytest.param((1, 1, 7), {}, id="kernel wider than C"),
    pytest.param((1, 1, 3), {"padding": "circular", "gate": "2sigmoid"}, id="circular"),
    pytest.param((1, 1, 3), {"gate": "hard_sigmoid"}, id="hard_sigmoid"),
    pytest.param((5, 1, 3), {}, id="ECA-NS"),
    pytest.param((1, 1, 3), {"mask": MASK}, id="mask"),
    pytest.param((5, 1, 3), {"mask": MASK, "padding": "circular"}, id="ECA-NS, circular, mask"),
]


def for_torch(options):
    return {name: torch.from_numpy(v) if name == "mask" else v for name, v in options.items()}


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradients_are_the_oracles(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    cotangent = torch.from_numpy(rng.normal(size=SMALL))
    x.requires_grad_()
    weight.requires_grad_()
    eca(x, weight, **for_torch(options)).backward(cotangent)
    dx, dw = oracle_grads(x, weight, cotangent, **options)
    torch.testing.assert_close(x.grad, dx, **ROUNDING)
    torch.testing.assert_close(weight.grad, dw, **ROUNDING)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradcheck(kernel, options, rng):
    x, weight = (t.requires_grad_() for t in draw(rng, SMALL, kernel))
    function = partial(eca, return_gate=True, **for_torch(options))
    assert torch.autograd.gradcheck(function, (x, weight), check_forward_ad=True, check_batched_grad=True)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_gradgradcheck(kernel, options, rng):
    x, weight = (t.requires_grad_() for t in draw(rng, SMALL, kernel))
    function = partial(eca, **for_torch(options))
    assert torch.autograd.gradgradcheck(function, (x, weight), check_fwd_over_rev=True)


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_jvp_is_the_oracles_difference(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    dx, dw = draw(rng, SMALL, kernel)
    y, tangent = jvp(partial(eca, **for_torch(options)), (x, weight), (dx, dw))
    ahead = oracle(x + STEP * dx, weight + STEP * dw, **options)
    behind = oracle(x - STEP * dx, weight - STEP * dw, **options)
    torch.testing.assert_close(y, oracle(x, weight, **options), **ROUNDING)
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * STEP), **DIFFERENCES)
    assert tangent.abs().max() > 0.1  # a custom op without a jvp returns zeros, silently


@on_both
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_hessian_of_the_weight_is_the_oracles_difference(kernel, options, rng):
    x, weight = draw(rng, SMALL, kernel)
    cotangent = torch.from_numpy(rng.normal(size=SMALL))
    found = hessian(lambda w: (cotangent * eca(x, w, **for_torch(options))).sum())(weight)
    found = found.reshape(weight.numel(), weight.numel())
    for row, direction in zip(found, torch.eye(weight.numel(), dtype=torch.float64), strict=True):
        step = STEP * direction.reshape(kernel)
        _, ahead = oracle_grads(x, weight + step, cotangent, **options)
        _, behind = oracle_grads(x, weight - step, cotangent, **options)
        torch.testing.assert_close(row, ((ahead - behind) / (2 * STEP)).flatten(), **DIFFERENCES)


# --- torch.func over the batch, the weights and the module --------------------------------------------------------


@on_both
def test_vmap_over_inputs_and_over_weights(rng):
    xs, _ = draw(rng, (4, 6, 2, 3, 5))  # four inputs (6, 2, 3, 5): N = 6, C = 2
    weights = torch.from_numpy(rng.normal(size=(4, 1, 1, 3)))
    pairs = vmap(eca)(xs, weights)
    ensemble = vmap(eca, in_dims=(None, 0))(xs[0], weights)
    for i in range(4):
        torch.testing.assert_close(pairs[i], oracle(xs[i], weights[i]), **ROUNDING)
        torch.testing.assert_close(ensemble[i], oracle(xs[0], weights[i]), **ROUNDING)


@on_both
def test_gradients_per_sample(rng):
    x, weight = draw(rng, (4, 6, 3, 5))
    cotangent = torch.from_numpy(rng.normal(size=x.shape))
    layer = ECA(6, 3, dtype=torch.float64)

    def loss(weights, x, cotangent):
        return (cotangent[None] * functional_call(layer, weights, (x[None],))).sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0))({"conv.weight": weight}, x, cotangent)["conv.weight"]
    for i in range(4):
        _, dw = oracle_grads(x[i : i + 1], weight, cotangent[i : i + 1])
        torch.testing.assert_close(found[i], dw, **ROUNDING)


# --- autocast -----------------------------------------------------------------------------------------------------


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


# --- torch.compile ------------------------------------------------------------------------------------------------

CHANNELS = (20, 12, 33, 48)  # the rule gives k = 3 for each of them


@pytest.fixture
def counter():
    """A backend that counts the graphs it is handed, with nothing compiled before."""
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def run_over_channels(function, rng, channel_counts=CHANNELS):
    """Call a compiled function of (x, weight) on several sizes of everything; compare values and gradients.

    No size of the first call equals another one or k = 3: torch.compile takes equal sizes to be always equal.
    """
    for n, channels in enumerate(channel_counts):
        x, weight = draw(rng, (2 + n, channels, 5 + n, 7 - n))
        cotangent = torch.from_numpy(rng.normal(size=x.shape))
        x.requires_grad_()
        weight.requires_grad_()
        y = function(x, weight)
        y.backward(cotangent)
        dx, dw = oracle_grads(x, weight, cotangent)
        torch.testing.assert_close(y, oracle(x, weight), **ROUNDING)
        torch.testing.assert_close(x.grad, dx, **ROUNDING)
        torch.testing.assert_close(weight.grad, dw, **ROUNDING)


def compiled_layer(layer_type, counter):
    """The function of (x, weight) that compiles a layer of its own for each channel count."""

    def run(x, weight):
        layer = layer_type(x.shape[1], dtype=torch.float64)
        layer.conv.weight = nn.Parameter(weight.detach())
        layer.conv.weight.register_hook(lambda gradient: setattr(weight, "grad", gradient))
        return torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)(x)

    return run


class ComparingECA(ECA):
    """Compares a dynamic channel count, which is what `ECA` must not do: each comparison costs a graph."""

    def forward(self, x, mask=None):
        if x.shape[self.channel_axis] != self.channels:
            raise ValueError("other channels")
        return super().forward(x, mask)


def conv1d_eca(x, weight):
    """The usual form. Inductor's backward of conv1d bakes the channel count into the graph."""
    logits = F.conv1d(x.mean((2, 3)).unsqueeze(1), weight, padding=weight.shape[-1] // 2).squeeze(1)
    return x * logits.sigmoid()[:, :, None, None]


def test_function_compiles_once_for_all_channel_counts(counter, rng):
    run_over_channels(torch.compile(eca, fullgraph=True, dynamic=True, backend=counter), rng)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("layer_type", "graphs"), [(ECA, 1), pytest.param(ComparingECA, len(CHANNELS), marks=pytest.mark.slow)]
)
def test_layer_compiles_once_for_all_channel_counts(layer_type, graphs, counter, rng):
    run_over_channels(compiled_layer(layer_type, counter), rng)
    assert counter.frame_count == graphs


@pytest.mark.slow
@pytest.mark.parametrize(("function", "graphs"), [(eca, 1), (conv1d_eca, 2)])
def test_inductor_compiles_once_where_conv1d_recompiles(function, graphs, counter, rng):
    counter = CompileCounterWithBackend("inductor")
    run_over_channels(torch.compile(function, fullgraph=True, dynamic=True, backend=counter), rng, CHANNELS[:2])
    assert counter.frame_count == graphs


def test_layers_in_one_model_compile(counter, rng):
    """Three layers and a mask in one compiled function: one graph, reused for all sizes."""
    layers = [ECA(6, 3), ECA(6, 5, padding="circular"), ECA(6, 3, shared=False)]
    model = nn.ModuleList(layers).double()

    def forward(x, mask):
        for layer in model:
            x = layer(x, mask)
        return x

    compiled = torch.compile(forward, fullgraph=True, dynamic=True, backend=counter)
    for shape in [(2, 6, 3, 5), (3, 6, 7, 4)]:
        x, _ = draw(rng, shape)
        mask = rng.random((shape[0], *shape[2:])) < 0.7
        expected = x
        for layer in layers:
            expected = oracle(expected, layer.conv.weight, padding=layer.padding, mask=mask)
        torch.testing.assert_close(compiled(x, torch.from_numpy(mask)), expected, **ROUNDING)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("fullgraph", "error"),
    [(False, ValueError), (True, torch._dynamo.exc.Unsupported)],  # torch wraps whatever is raised in a full graph
)
def test_wrong_channel_count_is_said_under_compile(fullgraph, error, counter):
    compiled = torch.compile(ECA(20), dynamic=False, fullgraph=fullgraph, backend=counter)
    compiled(torch.ones(2, 20, 3, 5))
    with pytest.raises(error, match=r"x must be of 20 channels\. Received: 21 channels at axis 1"):
        compiled(torch.ones(2, 21, 3, 5))


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "options"), DERIVATIVES)
def test_inductor_agrees_with_the_oracle(kernel, options, rng):
    torch._dynamo.reset()
    x, weight = draw(rng, SMALL, kernel)
    cotangent = torch.from_numpy(rng.normal(size=SMALL))
    x.requires_grad_()
    weight.requires_grad_()
    y = torch.compile(eca, fullgraph=True)(x, weight, **for_torch(options))
    y.backward(cotangent)
    dx, dw = oracle_grads(x, weight, cotangent, **options)
    torch.testing.assert_close(y, oracle(x, weight, **options), **ROUNDING)
    torch.testing.assert_close(x.grad, dx, **ROUNDING)
    torch.testing.assert_close(weight.grad, dw, **ROUNDING)


# --- torch.export -------------------------------------------------------------------------------------------------

ANY = torch.export.Dim.DYNAMIC


class Function(nn.Module):
    """`eca` as a module, for torch.export."""

    def forward(self, x, weight):
        return eca(x, weight)


def _through_a_file(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_exported_layer_takes_any_batch_and_extent(strict, masked, rng):
    x, weight = draw(rng)
    layer = with_weight(ECA(10, dtype=torch.float64), weight)
    args = (x, torch.ones(2, 3, 5, dtype=torch.bool)) if masked else (x,)
    dynamic = ({0: ANY, 2: ANY, 3: ANY}, {0: ANY, 1: ANY, 2: ANY})[: len(args)]
    run = _through_a_file(torch.export.export(layer, args, dynamic_shapes=dynamic, strict=strict))
    for shape in [(2, 10, 3, 5), (3, 10, 8, 4), (1, 10, 1, 9)]:
        x, _ = draw(rng, shape)
        mask = rng.random((shape[0], *shape[2:])) < 0.7
        options = {"mask": mask} if masked else {}
        y = run(x, *([torch.from_numpy(mask)] if masked else []))
        torch.testing.assert_close(y, oracle(x, weight, **options), **ROUNDING)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_exported_function_takes_any_channel_count(strict, rng):
    args = draw(rng)
    dynamic = ({0: ANY, 1: ANY, 2: ANY, 3: ANY}, None)
    run = _through_a_file(torch.export.export(Function(), args, dynamic_shapes=dynamic, strict=strict))
    for channels in CHANNELS:
        x, weight = draw(rng, (3, channels, 7, 4))
        torch.testing.assert_close(run(x, weight), oracle(x, weight), **ROUNDING)


# --- LazyECA ------------------------------------------------------------------------------------------------------


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


def test_lazy_compiles_before_its_first_call(counter, rng):
    x, _ = draw(rng)
    lazy = LazyECA(dtype=torch.float64)
    y = torch.compile(lazy, backend=counter)(x)
    torch.testing.assert_close(y, oracle(x, lazy.conv.weight), **ROUNDING)
    assert type(lazy) is ECA
