"""ECA's own backward pass in torch: where it is taken, and that it allocates nothing but its results.

What it computes is tested with the layer's derivatives in test_torch_derivatives.py, which run on both codes.
"""

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from eca_multi.torch import _masked_product, _tensor_lines, eca
from eca_multi.torch._fast import batch_norm, choose, feature_map
from tests.support.oracle import oracle

SHAPE = (4, 32, 16, 17)  # more than choose.SMALL
LAYOUTS = {
    "channels first": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def draw(dtype=torch.float32, layout=torch.Tensor.contiguous, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(size, generator=generator).to(dtype) for size in (shape, (1, 1, 3), shape))
    return layout(x).requires_grad_(), weight.requires_grad_(), layout(dy)


def is_fused(y):
    """Whether this result comes from the code with a backward of its own."""
    nodes = [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            if node.name() == "FusedECABackward":
                return True
            nodes += [following for following, _ in node.next_functions]
    return False


@each_dtype
@each_layout
def test_it_is_taken_where_a_large_map_has_a_gradient(dtype, layout):
    x, weight, _ = draw(dtype, layout)
    assert is_fused(eca(x, weight))
    assert is_fused(eca(x.detach(), weight))
    assert is_fused(eca(x, weight.detach(), padding="circular", gate="2sigmoid", return_gate=True)[0])


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("change", "options"),
    [
        pytest.param(lambda x: x.detach()[:, :, :8, :8].contiguous().requires_grad_(), {}, id="small"),
        pytest.param(lambda x: x.detach().double().requires_grad_(), {}, id="float64"),
        pytest.param(lambda x: x.detach().as_subclass(Subclass).requires_grad_(), {}, id="a subclass"),
        pytest.param(lambda x: x.detach().transpose(2, 3).requires_grad_(), {}, id="another layout"),
        pytest.param(lambda x: x, {"gate": torch.tanh}, id="a gate of one's own"),
        pytest.param(lambda x: x, {"mask": torch.ones(4, 16, 17, dtype=torch.bool)}, id="a mask"),
    ],
)
def test_it_is_not_taken(change, options):
    x, weight, _ = draw()
    assert not is_fused(eca(change(x), weight, **options))


def test_forward_alone_has_no_function_around_it():
    x, weight, _ = draw()
    with torch.no_grad():
        assert not choose.is_faster(x, weight, "sigmoid", 1)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Following(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Watching, Following])
def test_a_mode_sees_operations_alone(mode):
    """Those of the parity harness change them, and users count or log them."""
    x, weight, _ = draw()
    with mode():
        assert not is_fused(eca(x, weight))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of shapes
def test_tracing_sees_operations_alone():
    x, weight, _ = draw()
    traced = torch.jit.trace(eca, (x.detach(), weight.detach()))
    assert "PythonOp" not in str(traced.graph)


def test_functionalize_sees_operations_alone():
    """It knows no autograd.Function."""
    x, weight, _ = draw()
    pull = torch.func.grad(lambda x: eca(x, weight).sum())
    assert torch.allclose(torch.func.functionalize(pull)(x), pull(x))


@pytest.mark.parametrize("shape", [(0, 32, 16, 17), (2, 32, 3, 3), SHAPE])
@pytest.mark.parametrize("axis", [1, -1])
def test_the_gates_of_any_batch(shape, axis):
    x = torch.ones(shape).movedim(1, axis).requires_grad_()
    y, g = eca(x, torch.zeros(1, 1, 3), channel_axis=axis, return_gate=True)
    assert (y.shape, g.shape) == (x.shape, (shape[0], 32))


@each_layout
def test_a_saturated_gate_passes_no_infinity_on(layout, monkeypatch):
    """The gates beside an infinite channel are 0 or 1, and constant: the gradient is that of the tensor lines."""
    x, weight, dy = draw(layout=layout)
    x.data[0, 3] = torch.inf
    gradients = []
    for small in (choose.SMALL, 1 << 62):
        monkeypatch.setattr(choose, "SMALL", small)
        gradients += torch.autograd.grad(eca(x, weight, gate="hard_sigmoid"), x, dy)
    assert gradients[1].isfinite().all()
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo reads it
@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_compiled_backward_pass_of_an_eager_forward_pass(dynamic):
    x, weight, dy = draw()
    y = eca(x, weight)
    expected = torch.autograd.grad(y, (x, weight), dy, retain_graph=True)
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda y: (y * dy).sum().backward(), dynamic=dynamic)(y)
    assert torch.allclose(x.grad, expected[0], atol=1e-6)
    assert torch.allclose(weight.grad, expected[1], rtol=1e-4)


def allocations(x, weight, dy, **options):
    """How many tensors as large as x a forward and a backward pass allocate."""

    def large(run):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
            result = run()
        return result, sum(event.self_cpu_memory_usage >= x.nbytes for event in profiled.events())

    y, forward = large(lambda: eca(x, weight, **options))
    _, backward = large(lambda: y.backward(dy))
    return forward, backward


# How long a row and a sample must be for batch normalisation's kernels: each of these maps is, or none is.
each_length = pytest.mark.parametrize("length", [0, 1 << 62], ids=["long", "short"])


def set_lengths(monkeypatch, length, block):
    monkeypatch.setattr(feature_map, "LONG_ROW", length)
    monkeypatch.setattr(feature_map, "LONG_COLUMNS", length)
    monkeypatch.setattr(feature_map, "LONG_HALF_COLUMNS", length)
    monkeypatch.setattr(feature_map, "BLOCK", block)


@each_length
@each_dtype
@each_layout
def test_nothing_but_the_results_is_as_large_as_x(dtype, layout, length, monkeypatch):
    set_lengths(monkeypatch, length, 1 << 12)
    assert allocations(*draw(dtype, layout)) == (1, 1)


def test_autograd_of_the_native_code_allocates_more(monkeypatch):
    monkeypatch.setattr(choose, "SMALL", 1 << 62)
    forward, backward = allocations(*draw())
    assert forward == 1
    assert backward > 1


def test_padding_that_is_finite_costs_no_map(monkeypatch):
    """With a mask the usual code is taken. Only where the padding is not finite, its gradient is computed again."""
    mask = torch.arange(SHAPE[3]) < 12
    ours = allocations(*draw(), mask=mask)
    monkeypatch.setattr(_masked_product, "is_eager", lambda *_: False)
    written_out = allocations(*draw(), mask=mask)
    monkeypatch.setattr(_tensor_lines, "masked_product", lambda x, scale, valid: x * scale)
    assert ours == allocations(*draw(), mask=mask)
    assert written_out[0] > ours[0] + 1
    assert written_out[1] > ours[1] + 1


def beyond_budget(x, weight, dy):
    """Which of y, dx and dw are off by more than the parity run allows."""
    y = eca(x, weight)
    y.backward(dy)
    arrays = {"x": x, "cotangent": dy, "weight": weight[0, 0]}
    arrays = {name: t.detach().double().numpy() for name, t in arrays.items()}
    expected = oracle(arrays, {}, str(x.dtype).removeprefix("torch."))
    found = {"y": y, "dx": x.grad, "dw": weight.grad.flatten()}
    errors = {name: abs(t.detach().double().numpy() - expected[name][0]) for name, t in found.items()}
    return {name for name, error in errors.items() if not (error <= expected[name][1]).all()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.keys())
@pytest.mark.parametrize(
    "cotangent",
    [
        pytest.param(lambda dy: dy.contiguous(), id="channels first"),
        pytest.param(lambda dy: dy.contiguous(memory_format=torch.channels_last), id="channels last"),
        pytest.param(lambda dy: dy[:1, :1, :1, :1].expand(SHAPE), id="expanded"),
        pytest.param(lambda dy: dy.transpose(2, 3).contiguous().transpose(2, 3), id="transposed"),
    ],
)
def test_a_gradient_of_another_layout(layout, cotangent):
    x, weight, dy = draw(layout=LAYOUTS[layout])
    assert beyond_budget(x, weight, cotangent(dy)) == set()
    form = torch.channels_last if layout == "channels last" else torch.contiguous_format
    assert x.grad.is_contiguous(memory_format=form)


@each_dtype
@each_layout
def test_the_output_may_be_written_over(dtype, layout):
    """As residual blocks do: y += shortcut, and a ReLU in place."""
    x, weight, _ = draw(dtype, layout)
    y = eca(x, weight)
    y += 1
    y.relu_().sum().backward()
    same = x.detach().requires_grad_()
    torch.relu(eca(same, weight) + 1).sum().backward()
    assert torch.equal(x.grad, same.grad)


def last(x):
    """Channels last in memory, in any rank."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


@each_length
@each_dtype
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, last], ids=LAYOUTS.keys())
@pytest.mark.parametrize("shape", [SHAPE, (2, 300, 70), (3, 5, 9, 16, 17)], ids=["2-D", "1-D", "3-D"])
def test_it_is_within_the_error_budget(dtype, layout, shape, length, monkeypatch):
    monkeypatch.setattr(choose, "SMALL", 0)
    set_lengths(monkeypatch, length, 1 << 10)
    x, weight, dy = draw(dtype, layout, shape)
    assert is_fused(eca(x, weight))
    assert beyond_budget(x, weight, dy) == set()


@each_layout
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per channel"])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_every_padding_and_kind_of_kernel_has_its_gradients(layout, padding, shared):
    """The kernels wrap around too: channel 0 is read by the last channel, through that channel's own kernel."""
    x, _, dy = draw(layout=layout)
    weight = torch.randn((1 if shared else SHAPE[1], 1, 5), generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = eca(x, weight, padding=padding)
    assert is_fused(y)
    y.backward(dy)
    arrays = {"x": x, "cotangent": dy, "weight": weight[0, 0] if shared else weight[:, 0]}
    arrays = {name: t.detach().double().numpy() for name, t in arrays.items()}
    found = {"y": y.detach(), "dx": x.grad, "dw": weight.grad[0, 0] if shared else weight.grad[:, 0]}
    for name, (expected, allowed) in oracle(arrays, {"padding": padding}, "float32").items():
        assert (abs(found[name].double().numpy() - expected) <= allowed).all(), name


def constant(layout, positions):
    """A map whose sums drift: each term added is rounded the same way."""
    x, dy = (layout(torch.full((1, 4, *positions), value)) for value in (0.1, 0.3))
    return x.requires_grad_(), torch.tensor([[[0.1, 0.5, -0.2]]], requires_grad=True), dy


@each_layout
@pytest.mark.parametrize("positions", [(512, 512), (431, 433), (2, 16411)], ids=str)
def test_long_sums_do_not_drift(layout, positions):
    """The last cannot be cut into equal runs: 16411 is prime."""
    assert beyond_budget(*constant(layout, positions)) == set()


@each_layout
def test_the_budget_refuses_sums_that_drift(layout, monkeypatch):
    monkeypatch.setattr(batch_norm, "_run", lambda x: x.shape[1])
    assert beyond_budget(*constant(layout, (512, 512))) >= {"dw"}


def test_the_budget_refuses_a_gradient_that_lacks_the_means(monkeypatch):
    """The control: dx = dy * g alone, as of a gate that is taken for a constant."""
    scaled = feature_map.FeatureMap.scaled
    monkeypatch.setattr(feature_map.FeatureMap, "scaled", lambda self, g, shift, out: scaled(self, g, None, out))
    assert beyond_budget(*draw()) == {"dx"}


# --- autograd's dual numbers ----------------------------------------------------------------------------------------


def forward_over_reverse(x, weight, x_dot, w_dot):
    with forward_ad.dual_level():
        y = eca(forward_ad.make_dual(x, x_dot), forward_ad.make_dual(weight, w_dot))
        gradients = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
        return [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]


def reverse_over_forward(x, weight, x_dot, w_dot):
    with forward_ad.dual_level():
        y = eca(forward_ad.make_dual(x, x_dot), forward_ad.make_dual(weight, w_dot))
        tangent = forward_ad.unpack_dual(y).tangent
    return torch.autograd.grad(tangent, (x, weight), torch.ones_like(tangent))  # of y, the gates and the means


@each_dtype
@each_layout
@pytest.mark.parametrize("derivative", [forward_over_reverse, reverse_over_forward])
def test_dual_numbers(dtype, layout, derivative):
    """A few roundings of the dtype from float64, which is the native code."""
    x, weight, x_dot = draw(dtype, layout)
    arguments = [t.detach() for t in (x, weight, x_dot, weight.flip(2))]
    found, true = (
        derivative(*(t.to(to).requires_grad_(i < 2) for i, t in enumerate(arguments))) for to in (dtype, torch.float64)
    )
    for value, right in zip(found, true, strict=True):
        assert (value - right).abs().max() < 8 * torch.finfo(dtype).eps * right.abs().max()
