"""`pool_axes`, `causal_axis` and `residual` of torch's `eca` under compilers and transforms, and what they allocate.

All is float64 unless a test says otherwise, and compared with the float64 oracle.
"""

import math
import re
from functools import partial

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.func import grad, vmap
from torch.profiler import ProfilerActivity, profile

from eca_multi.torch import ECA, ECAState, LazyECA, eca, eca_step
from eca_multi.torch._fast import feature_map
from tests.support.layers_torch import MASK, ROUNDING, SMALL, draw, oracle, oracle_grads

ALLOCATION = r"empty_strided_cpu\(\((\d+(?:, \d+)*)\)"  # in the code that inductor writes
CASES = {
    "kept": {"pool_axes": (3,)},
    "causal": {"causal_axis": 2},
    "causal, the last": {"causal_axis": -1, "padding": "circular"},
    "causal and kept": {"pool_axes": (2,), "causal_axis": 2},
}


def chosen(*quick):
    """Each case, masked or not; those that are not named are slow."""
    pairs = {f"{name}, masked" if masked else name: (CASES[name], masked) for name in CASES for masked in (False, True)}
    return [pytest.param(*pair, id=id, marks=[pytest.mark.slow] * (id not in quick)) for id, pair in pairs.items()]


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
masked = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])


def arguments(rng, shape=SMALL, with_mask=False):
    """x, a kernel, a residual, and a mask or None; the first three take a gradient."""
    x, weight = draw(rng, shape)
    residual = torch.from_numpy(rng.normal(size=shape))
    mask = torch.from_numpy(MASK if shape == SMALL else rng.random((shape[0], *shape[2:])) < 0.6)
    return *(t.requires_grad_() for t in (x, weight, residual)), mask if with_mask else None


def assert_right(function, x, weight, residual, mask, **options):
    """Compare y and every gradient of a function of (x, weight, residual, mask)."""
    cotangent = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    y = function(x, weight, residual, mask)
    gradients = torch.autograd.grad(y, (x, weight, residual), cotangent)
    if mask is not None:
        options = {**options, "mask": mask.numpy()}
    torch.testing.assert_close(y, oracle(x, weight, residual=residual.detach().numpy(), **options), **ROUNDING)
    expected = (*oracle_grads(x, weight, cotangent, **options), cotangent)
    torch.testing.assert_close(gradients, expected, **ROUNDING)


def called(x, weight, residual, mask, **options):
    return eca(x, weight, residual=residual, mask=mask, **options)


@pytest.mark.parametrize(("case", "masked"), chosen("causal, masked"))
def test_a_compiled_call_is_one_graph(case, masked, rng):
    torch._dynamo.reset()
    compiled = torch.compile(partial(called, **case), fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in (SMALL, (3, 6, 8, 4)):
        assert_right(compiled, *arguments(rng, shape, masked), **case)


@pytest.mark.slow
@masked
@each_case
def test_inductor_agrees(case, masked, rng):
    torch._dynamo.reset()
    assert_right(torch.compile(partial(called, **case), fullgraph=True), *arguments(rng, with_mask=masked), **case)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["non-strict", "strict"])
@pytest.mark.parametrize("case", ["kept", "causal"])
def test_an_exported_layer_takes_any_batch_and_extent(case, strict, rng):
    case, free = CASES[case], torch.export.Dim.DYNAMIC
    layer = ECA(5, 3, dtype=torch.float64, **case)
    x, _, residual, mask = arguments(rng, with_mask=True)
    maps, positions = {0: free, 2: free, 3: free}, {0: free, 1: free, 2: free}
    example, dynamic = (x.detach(), mask, residual.detach()), (maps, positions, maps)
    run = torch.export.export(layer, example, dynamic_shapes=dynamic, strict=strict).module()
    for shape in (SMALL, (3, 5, 8, 4), (1, 5, 1, 9)):
        x, _, residual, mask = (t.detach() for t in arguments(rng, shape, with_mask=True))
        options = {**case, "mask": mask.numpy(), "residual": residual.numpy()}
        torch.testing.assert_close(run(x, mask, residual), oracle(x, layer.conv.weight, **options), **ROUNDING)


@each_case
def test_a_scripted_layer(case, rng):
    x, weight, residual, _ = arguments(rng)
    layer = ECA(5, 3, dtype=torch.float64, **case)
    layer.load_state_dict({"conv.weight": weight.detach()})
    scripted = torch.jit.script(layer)
    expected = oracle(x, weight, residual=residual.detach().numpy(), **case)
    torch.testing.assert_close(scripted(x, None, residual), expected, **ROUNDING)


@pytest.mark.parametrize(("case", "masked"), chosen("causal", "kept, masked"))
def test_every_derivative(case, masked, rng):
    *tensors, mask = arguments(rng, with_mask=masked)
    function = partial(called, mask=mask, **case)
    assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, tensors, check_fwd_over_rev=True)


@each_case
def test_vmap_of_values_and_gradients(case, rng):
    batch = [arguments(rng, (3, 5, 2, 3))[:3] for _ in range(3)]
    stacked = [torch.stack(parts).detach() for parts in zip(*batch, strict=True)]

    def loss(x, weight, residual):
        return eca(x, weight, residual=residual, **case).square().sum()

    values, gradients = vmap(loss)(*stacked), vmap(grad(loss, argnums=(0, 1, 2)))(*stacked)
    for i, (x, weight, residual) in enumerate(batch):
        y = oracle(x, weight, residual=residual.detach().numpy(), **case)
        torch.testing.assert_close(values[i], y.square().sum(), **ROUNDING)
        expected = (*oracle_grads(x, weight, 2 * y, **case), 2 * y)
        torch.testing.assert_close(tuple(g[i] for g in gradients), expected, **ROUNDING)


@each_case
def test_meta_tensors_and_a_lazy_layer(case):
    x = torch.empty(SMALL, device="meta")
    for layer in (ECA(5, device="meta", **case), LazyECA(device="meta", **case)):
        y = layer(x, torch.empty(2, 2, 3, device="meta", dtype=torch.bool), x)
        assert (y.shape, y.device.type) == (x.shape, "meta")
        found = {name: getattr(layer, name) for name in case}
        assert found == case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_case
def test_autocast_changes_neither_dtypes_nor_bits(case, dtype, rng):
    x, weight, residual = (t.detach().to(dtype).requires_grad_() for t in arguments(rng)[:3])

    def run():
        y = called(x, weight.detach().float(), residual, None, **case)
        return y, *torch.autograd.grad(y.float().square().sum(), (x, residual))

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run()
    assert {t.dtype for t in cast} == {dtype}
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


# --- what a call allocates ----------------------------------------------------------------------------------------


def large_tensors(run, x):
    """How many tensors as large as x a call allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        run()
    return sum(event.self_cpu_memory_usage >= x.nbytes for event in profiled.events())


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("case", [{}, {"pool_axes": (3,)}, {"causal_axis": 2}], ids=["all axes", "kept", "causal"])
def test_inference_with_a_residual_allocates_y_alone(case, last):
    form = torch.channels_last if last else torch.contiguous_format
    x, residual = (torch.randn(4, 32, 16, 17).contiguous(memory_format=form) for _ in range(2))
    layer = ECA(32, **case)
    with torch.inference_mode():
        assert large_tensors(lambda: layer(x, residual=residual), x) == 1
        assert large_tensors(lambda: layer(x) + residual, x) == 2  # the control


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_training_with_a_residual_allocates_the_results_alone(last, monkeypatch):
    monkeypatch.setattr(feature_map, "BLOCK", 1 << 12)
    form = torch.channels_last if last else torch.contiguous_format
    x, residual, dy = (torch.randn(4, 32, 16, 17).contiguous(memory_format=form) for _ in range(3))
    x, residual = x.requires_grad_(), residual.requires_grad_()
    layer = ECA(32)
    y = []
    assert large_tensors(lambda: y.append(layer(x, residual=residual)), x) == 1
    assert large_tensors(lambda: torch.autograd.grad(y, (x, residual), dy), x) == 1  # the residual's is dy itself


# --- a stream -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_stream_keeps_its_low_parts(rng):
    """Inductor must not reorder the compensated sums: without the low part, equal steps of 0.1 drift."""
    torch._dynamo.reset()
    step = torch.compile(partial(eca_step, causal_axis=2), fullgraph=True, dynamic=False, backend="inductor")
    x, weight = torch.full((1, 2, 4), 0.1), torch.ones(1, 1, 1)
    state, compiled = ECAState.start(x, causal_axis=2), ECAState.start(x, causal_axis=2)
    for _ in range(300):
        _, state = eca_step(x, weight, state, causal_axis=2)
        _, compiled = step(x, weight, compiled)
    exact = 300 * x.double().sum(2)
    for total, low, *_ in (state, compiled):
        torch.testing.assert_close(total.double() + low.double(), exact, rtol=1e-9, atol=0)
        assert (total.double() / exact - 1).abs().max() > 1e-9  # the control: the low part counts


def test_gradients_go_through_a_stream(rng):
    x, weight = (t.requires_grad_() for t in draw(rng, (2, 6, 11)))
    cotangent = torch.from_numpy(rng.normal(size=x.shape))
    blocks, state = [], None
    for part in x.split([3, 1, 5, 2], 2):
        y, state = eca_step(part, weight, state, causal_axis=2)
        blocks.append(y)
    found = torch.autograd.grad(torch.cat(blocks, 2), (x, weight), cotangent)
    torch.testing.assert_close(found, oracle_grads(x, weight, cotangent, causal_axis=2), **ROUNDING)


@pytest.mark.slow
def test_inductor_adds_a_residual_in_the_same_pass(rng):
    """Of the map's size its code allocates y alone."""
    x, residual = (torch.from_numpy(rng.normal(size=(2, 8, 16, 24))).float() for _ in range(2))
    weight = torch.ones(1, 1, 3)

    def maps(function):
        torch._dynamo.reset()
        _, codes = run_and_get_code(torch.compile(function, fullgraph=True), x, weight, residual)
        allocated = [math.prod(map(int, shape.split(", "))) for shape in re.findall(ALLOCATION, "".join(codes))]
        return sum(size >= x.numel() for size in allocated)

    assert maps(lambda x, weight, residual: eca(x, weight, residual=residual)) == 1
    assert maps(lambda x, weight, residual: ((y := eca(x, weight)), y + residual)) == 2  # the control


# --- the backward pass by hand ------------------------------------------------------------------------------------

WIDE = {"video": (2, 8, 16, 12, 14), "sequence": (3, 16, 1024)}
BY_HAND = {
    "frames": ("video", {"pool_axes": (3, 4)}),
    "causal frames": ("video", {"causal_axis": 2, "gate": "2sigmoid"}),
    "each column": ("video", {"pool_axes": (2, 3), "causal_axis": 2}),
    "causal sequence": ("sequence", {"causal_axis": -1, "padding": "circular", "gate": "hard_sigmoid"}),
    "channels last": ("sequence", {"causal_axis": 1, "channel_axis": -1}),
}
by_hand = pytest.mark.parametrize("name", BY_HAND)


def wide(rng, name, dtype, per_channel=False):
    """x, a kernel and a residual of a size from which on gradients are taken by hand, and the options."""
    shape, options = WIDE[BY_HAND[name][0]], BY_HAND[name][1]
    channels = shape[options.get("channel_axis", 1)]
    x, residual = (torch.from_numpy(rng.normal(size=shape) + 0.5).to(dtype) for _ in range(2))
    weight = torch.from_numpy(rng.normal(size=(channels if per_channel else 1, 1, 5))).to(dtype)
    return [t.requires_grad_() for t in (x, weight, residual)], options


def pulled(tensors, options, cotangents):
    y, gate = eca(*tensors[:2], residual=tensors[2], return_gate=True, **options)
    pairs = zip(cotangents, (y, gate), strict=True)
    return y, *torch.autograd.grad((y, gate), tensors, [c.to(o.dtype) for c, o in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["shared", "per channel"])
@by_hand
def test_gradients_by_hand_are_those_of_float64(name, per_channel, dtype, rng):
    """float64 takes the tensor lines; y and the gates both have a cotangent."""
    tensors, options = wide(rng, name, dtype, per_channel)
    wider = [t.detach().double().requires_grad_() for t in tensors]
    gate = eca(*wider[:2], return_gate=True, **options)[1]
    cotangents = [
        torch.from_numpy(rng.normal(size=shape)).to(dtype).double() for shape in (tensors[0].shape, gate.shape)
    ]
    y, *gradients = pulled(tensors, options, cotangents)
    assert "VaryingECA" in y.grad_fn.name()
    expected_y, *expected = pulled(wider, options, cotangents)
    unit = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    for got, wanted in zip((y, *gradients), (expected_y, *expected), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).abs().max() <= unit * wanted.abs().max()


@by_hand
def test_gradients_by_hand_can_be_differentiated_and_batched(name, rng):
    tensors, options = wide(rng, name, torch.float32)
    wider = [t.detach().double().requires_grad_() for t in tensors]
    cotangents = [torch.from_numpy(rng.normal(size=tensors[0].shape))]

    def second(tensors):
        y = eca(*tensors[:2], residual=tensors[2], **options)
        (dx,) = torch.autograd.grad(y, tensors[0], cotangents[0].to(y.dtype), create_graph=True)
        return torch.autograd.grad(dx.square().sum(), tensors[:2])

    for got, wanted in zip(second(tensors), second(wider), strict=True):
        assert (got.double() - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    y = eca(*tensors[:2], residual=tensors[2], **options)
    several = torch.stack([cotangents[0], -2 * cotangents[0]]).float()
    batched = torch.autograd.grad(y, tensors, several, is_grads_batched=True, retain_graph=True)
    single = torch.autograd.grad(y, tensors, several[0])
    for many, one in zip(batched, single, strict=True):
        torch.testing.assert_close(many[0], one, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(many[1], -2 * one, rtol=1e-4, atol=2e-4)


@by_hand
def test_of_a_call_x_alone_is_kept(name, rng):
    tensors, options = wide(rng, name, torch.float32)

    def kept(**more):
        sizes = {}

        def note(t):
            sizes[t.data_ptr()] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            eca(*tensors[:2], residual=tensors[2], **options, **more)
        return sum(sizes.values()) / tensors[0].numel()

    assert kept() < 1.01
    if BY_HAND[name][0] == "sequence":  # the control: autograd keeps means, logits and gates, each as large as x
        assert kept(mask=torch.ones(tensors[0].select(options.get("channel_axis", 1), 0).shape, dtype=torch.bool)) > 3
