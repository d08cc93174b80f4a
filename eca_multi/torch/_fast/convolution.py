"""The convolution over the channels and its gradients for plain tensors outside of autograd, in place."""

import torch
from torch import Tensor

from eca_multi.torch._tensor_lines import pad_channels


def convolve_plain(pooled: Tensor, w: Tensor, padding: str) -> Tensor:
    """`convolve` of the tensor lines, in fewer operations."""
    return _correlate(pad_channels(pooled, w.shape[1] // 2, padding), [*w.T])


def convolve_backward(dlogits: Tensor, pooled: Tensor, w: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """The gradients of `convolve` by the means and by w. (On the CPU conv1d's take up to twenty times as long.)"""
    channels, k = pooled.shape[1], w.shape[1]
    half = k // 2
    is_shared = len(w) == 1
    means, dz = pad_channels(pooled, half, padding), pad_channels(dlogits, half, padding)
    products = (dlogits * means[:, j : j + channels] for j in range(k))
    dw = torch.stack([product.sum() if is_shared else product.sum(0) for product in products], -1)
    # Channel c is read by channel c + j - half through its tap k - 1 - j.
    taps = w.T if is_shared else pad_channels(w.T, half, padding)
    back = [taps[k - 1 - j] if is_shared else taps[k - 1 - j, j : j + channels] for j in range(k)]
    return _correlate(dz, back), dw.view(w.shape)


def along_slope(gate: str, g: Tensor, d: Tensor) -> Tensor:
    """d times the derivative of the gate, from the gate's value."""
    if gate == "hard_sigmoid":
        return (d / 6).masked_fill((g <= 0) | (g >= 1), 0)  # not a product: 0 * inf is NaN, and NaN has a slope
    return g * (1 - g / 2 if gate == "2sigmoid" else 1 - g) * d


def _correlate(padded: Tensor, taps: list[Tensor]) -> Tensor:
    channels = padded.shape[1] - len(taps) + 1
    result = padded[:, :channels] * taps[0]
    for j, tap in enumerate(taps[1:], 1):
        result.addcmul_(padded[:, j : j + channels], tap)
    return result
