"""The torch layer under torch.compile and torch.export.

All is float64 unless a test says otherwise, and compared with the float64 oracle.
"""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from eca_multi.torch import ECA, LazyECA, eca
from tests.support.layers_torch import (
    DERIVATIVES,
    ROUNDING,
    SMALL,
    draw,
    for_torch,
    oracle,
    oracle_grads,
    with_weight,
)

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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_lazy_compiles_before_its_first_call(counter, rng):
    x, _ = draw(rng)
    lazy = LazyECA(dtype=torch.float64)
    y = torch.compile(lazy, backend=counter)(x)
    torch.testing.assert_close(y, oracle(x, lazy.conv.weight), **ROUNDING)
    assert type(lazy) is ECA


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


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["non-strict", "strict"])
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


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["non-strict", "strict"])
def test_exported_function_takes_any_channel_count(strict, rng):
    args = draw(rng)
    dynamic = ({0: ANY, 1: ANY, 2: ANY, 3: ANY}, None)
    run = _through_a_file(torch.export.export(Function(), args, dynamic_shapes=dynamic, strict=strict))
    for channels in CHANNELS:
        x, weight = draw(rng, (3, channels, 7, 4))
        torch.testing.assert_close(run(x, weight), oracle(x, weight), **ROUNDING)
