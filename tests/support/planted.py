"""Layers as a porter writes them by hand, right or with one fault, and modules to be the reference."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.causes import drawn


def image(c=4, h=9, w=9, n=2):
    return drawn(n, c, h, w)


def sequence(n=3, length=6, c=8):
    return drawn(n, length, c)


def conv(module, x, weight=None, **options):
    options = {"stride": module.stride, "padding": module.padding, "groups": module.groups, **options}
    return F.conv2d(x, module.weight if weight is None else weight, module.bias, **options)


def same(x, size, stride):
    """Pad as TensorFlow's SAME does."""
    border = []
    for extent in reversed(x.shape[2:]):
        total = max((-(-extent // stride) - 1) * stride + size - extent, 0)
        border += [total // 2, total - total // 2]
    return border


def normalised(x, axes, eps, correction=0):
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=correction, keepdim=True) + eps).sqrt()


def per_channel(p):
    return p[:, None, None]


def attention(module, x, order=(0, 1, 2), scale=None, heads_last=False, mask=None):
    """Self-attention from the weights of MultiheadAttention, by matrix products."""
    e, h = module.embed_dim, module.num_heads
    parts = (x @ module.in_proj_weight.T + module.in_proj_bias).split(e, -1)
    q, k, v = (parts[i] for i in order)

    def heads(t):
        t = t.unflatten(-1, (e // h, h)).transpose(-1, -2) if heads_last else t.unflatten(-1, (h, e // h))
        return t.transpose(1, 2)

    scores = heads(q) @ heads(k).transpose(-1, -2) * ((e // h) ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores + mask
    mixed = (scores.softmax(-1) @ heads(v)).transpose(1, 2).flatten(2)
    return mixed @ module.out_proj.weight.T + module.out_proj.bias


def gru(module, x, reset_before=False, order=(0, 1, 2)):
    cell, h, states = module, torch.zeros(len(x), module.hidden_size), []

    def gates(p):
        return [p.chunk(3)[i] for i in order]

    wr, wz, wn = gates(cell.weight_ih_l0)
    ur, uz, un = gates(cell.weight_hh_l0)
    br, bz, bn = gates(cell.bias_ih_l0)
    cr, cz, cn = gates(cell.bias_hh_l0)
    for t in range(x.shape[1]):
        r, z = torch.sigmoid(x[:, t] @ wr.T + br + h @ ur.T + cr), torch.sigmoid(x[:, t] @ wz.T + bz + h @ uz.T + cz)
        inner = (r * h) @ un.T + cn if reset_before else r * (h @ un.T + cn)
        h = (1 - z) * torch.tanh(x[:, t] @ wn.T + bn + inner) + z * h
        states.append(h)
    return torch.stack(states, 1)


def lstm(module, x, order):
    h = c = torch.zeros(len(x), module.hidden_size)
    states = []
    for t in range(x.shape[1]):
        z = x[:, t] @ module.weight_ih_l0.T + module.bias_ih_l0 + h @ module.weight_hh_l0.T + module.bias_hh_l0
        i, f, g, o = (z.chunk(4, -1)[k] for k in order)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, 1)


def batch_norm(module, x, momentum=0.1, unbiased=True, eps=1e-5):
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=int(unbiased))
    module.running_mean.mul_(1 - momentum).add_(momentum * mean)
    module.running_var.mul_(1 - momentum).add_(momentum * var)
    return normalised(x, (0, 2, 3), eps) * per_channel(module.weight) + per_channel(module.bias)


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4 * 3 * 5, 7)

    def forward(self, x):
        return self.linear(x.flatten(1))


class Masked(nn.Module):
    def forward(self, q, mask):
        return F.scaled_dot_product_attention(q, q.cos(), q.sin(), attn_mask=mask)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)


class Scores(nn.Module):
    """Attention by hand."""

    def __init__(self, heads=2):
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(8, 24)

    def forward(self, x):
        n, length, e = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (e // self.heads) ** -0.5
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, e)


class Resized(nn.Module):
    def __init__(self, size, **options):
        super().__init__()
        self.size, self.options = size, options

    def forward(self, x):
        return F.interpolate(x, size=self.size, **self.options)


class Op(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def scores_by_hand(m, x, packed=False, scale=None, axis=-1):
    p = m.qkv(x)
    d = x.shape[-1] // m.heads
    q, k, v = (
        p.unflatten(-1, (m.heads, 3, d)).permute(3, 0, 2, 1, 4)
        if packed
        else p.unflatten(-1, (3, m.heads, d)).permute(2, 0, 3, 1, 4)
    )
    scores = q @ k.transpose(-2, -1) * (d**-0.5 if scale is None else scale)
    return (scores.softmax(axis) @ v).permute(0, 2, 1, 3).flatten(2)


def inverted_attention(m, q, mask, added=False, ignored=False):
    scores = q @ q.cos().transpose(-1, -2) * q.shape[-1] ** -0.5
    if added:
        scores = scores + mask
    elif not ignored:
        scores = scores.masked_fill(mask, -torch.inf)
    return scores.softmax(-1) @ q.sin()


def avg_pool(x, counted):
    total = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2) * 9
    counts = F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, 2) * 9
    return total / (9 if counted else counts)


def tf32(x):
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def relu_rnn(module, x):
    h, states = torch.zeros(len(x), 4), []
    for t in range(x.shape[1]):
        inner = x[:, t] @ module.weight_ih_l0.T + module.bias_ih_l0 + module.bias_hh_l0
        h = torch.relu(inner + h @ module.weight_hh_l0.T)
        states.append(h)
    return torch.stack(states, 1)


def symmetric(module):
    """Give a convolution kernels that a flip does not change."""
    with torch.no_grad():
        module.weight.copy_((module.weight + module.weight.flip(2, 3)) / 2)
    return module


def swapped_in_the_weight(module, x):
    """Exchange query and key in the packed weight, and not in its bias."""
    q, k, v = module.inner.in_proj_weight.chunk(3)
    module.inner.in_proj_weight = nn.Parameter(torch.cat([k, q, v]))
    return attention(module.inner, x)


MASK = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) > 0.4
MASK = MASK | torch.eye(5, dtype=torch.bool) & ~torch.zeros(5, 5, dtype=torch.bool)
MASK[:, 4] = False
QUERY = drawn(2, 5, 4)
