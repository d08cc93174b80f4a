"""Tensors of torch that lie in memory in other ways: expanded, overlapping, with the negative bit."""

import pytest
import torch

SMALL, LARGE = (2, 6, 3, 4), (4, 64, 16, 17)  # the larger has the fused backward pass


def _negative(a):
    return torch._neg_view(-a)


def _imaginary(a):
    """The imaginary part of a conjugate: the way in which the negative bit comes about; `to` keeps it."""
    view = torch.complex(torch.zeros(()), -a.float()).conj().imag.to(a.dtype)
    assert a.dtype != torch.float32 or view.is_neg()
    return view


def _every_second(a):
    wide = a.new_zeros(*a.shape[:-1], 2 * a.shape[-1])
    wide[..., ::2] = a
    return wide[..., ::2]


def _channels_last(a):
    return a.movedim(1, -1).contiguous().movedim(-1, 1)


VIEWS = {
    "negative": _negative,
    "imaginary part of a conjugate": _imaginary,
    "negative, channels last": lambda a: _negative(_channels_last(a)),
    "strided": _every_second,
    "transposed": lambda a: a.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda a: a[:1, :1, :1, :1].expand(a.shape),
    "expanded over the batch": lambda a: a[:1].expand(a.shape),
    "expanded over the channels": lambda a: a[:, :1].expand(a.shape),
    "expanded over space": lambda a: a[..., :1, :1].expand(a.shape),
    "overlapping": lambda a: a.flatten().as_strided(a.shape, (a.shape[1], 1, 3, 1)),
}
each_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def of_torchs(x, w, dy, mask):
    from eca_multi.torch import eca

    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y, g = eca(x, w, mask=mask, return_gate=True)
    return y.detach(), g.detach(), *torch.autograd.grad(y, (x, w), dy)


def in_order(a):
    return a.resolve_neg().clone(memory_format=torch.contiguous_format)


@each_view
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_a_view_is_read_as_what_it_shows(shape, dtype, view):
    generator = torch.Generator().manual_seed(5)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    w, mask = torch.randn(1, 1, 3, generator=generator), torch.rand(shape[0], *shape[2:], generator=generator) < 0.6
    weights = (w, torch._neg_view(-w), w[..., :1].expand(1, 1, 3), w.expand(shape[1], 1, 3))
    calls = [(view(x), w, dy, None), (x, w, view(dy), None), (view(x), w, view(dy), mask)]
    calls += [(x, weight, dy, None) for weight in weights] + [(x, w, dy, mask[:1, :1].expand(mask.shape))]
    # The orders of summation differ. All terms are near 1, at most 1088 for each gate, and dw sums all of dy * x.
    unit = torch.finfo(dtype).eps
    for x_, w_, dy_, mask_ in calls:
        expected = of_torchs(in_order(x_), in_order(w_), in_order(dy_), None if mask_ is None else mask_.clone())
        for values, right in zip(of_torchs(x_, w_, dy_, mask_), expected, strict=True):
            torch.testing.assert_close(values, right, rtol=8 * unit, atol=1e-5 * float(right.abs().max()) + unit)


def test_a_lost_sign_is_seen(monkeypatch):
    """The control: torch's copy_ from a negative float16 view to float32, which ECA used to call."""
    from eca_multi.torch._fast import feature_map

    x = torch.randn(LARGE, generator=torch.Generator().manual_seed(5)).half()
    plain = of_torchs(x, torch.ones(3), x, None)
    monkeypatch.setattr(torch.Tensor, "resolve_neg", lambda self: self)
    assert feature_map.layout_of(_negative(x), 1) == "rows"
    lost = of_torchs(_negative(x), torch.ones(3), x, None)
    monkeypatch.undo()
    assert not torch.allclose(lost[1], plain[1], atol=0.1)


@pytest.mark.slow
def test_a_view_that_compilers_see():
    from eca_multi.torch import eca

    x, w = torch.randn(SMALL, generator=torch.Generator().manual_seed(5)).half(), torch.ones(3)
    compiled = torch.compile(eca, backend="aot_eager", fullgraph=True)
    for view in (_negative, VIEWS["expanded over space"], _every_second):
        torch.testing.assert_close(compiled(view(x), w), eca(in_order(view(x)), w))
