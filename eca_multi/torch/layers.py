"""The ECA layer for PyTorch."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch.jit lists no names
from torch.nn.parameter import Parameter

from eca_multi._canonical import native_shape
from eca_multi._errors import check_axis_type, check_gate, check_init, check_odd, check_padding, check_positive_int
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling_types

from ._tensor_lines import Gate, scripted_eca
from .functional import checked_eca

torch.fx.wrap("checked_eca")  # one step in a graph of torch.fx, so that networks with ECA can be traced and fused


class ChannelKernel(nn.Module):
    """Holds `weight`, so that it is called `conv.weight` as in every ECA checkpoint.

    Not an nn.Conv1d: code that walks a model to initialise, quantise or replace convolutions must not find it.
    """

    def __init__(self, weight: Parameter) -> None:
        super().__init__()
        self.weight = weight

    def extra_repr(self) -> str:
        return f"weight {tuple(self.weight.shape)}"


class ECA(nn.Module):
    """Efficient Channel Attention: y = x * gate(convolution over the channels of the spatial mean of x).

    Args:
        channels: Number of channels C of x.
        kernel_size: Odd size k of the kernel. None takes `eca_kernel_size(channels, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule; unused where `kernel_size` is given.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid), or a function of the logits.
        shared: True for one kernel for all channels, False for one per channel (ECA-NS).
        init: "uniform" is U(-1/sqrt(k), 1/sqrt(k)); "identity" is zeros and needs gate="2sigmoid", so that the
            layer returns x until it is trained.
        channel_axis: Axis of the channels, not 0: 1 for (N, C, *S), -1 for (N, *S, C).
        pool_axes: Axes to average over, an integer or several; None is all but batch and channels. An axis that is
            left out is kept: each of its positions has gates of its own.
        causal_axis: The pooled axis along which a position sees itself and what lies before it, never what comes after.
        device, dtype: Of the parameter.

    Shape:
        x: (N, C, *S) of rank >= 3 in any floating-point dtype. mask: boolean, broadcastable to (N, *S).
        residual: as x, added to the product. The logits are (N, C, *kept), with the axes along which the gates vary.
        Output: as x, in x's dtype. Parameters: `conv.weight` of shape (1, 1, k), or (C, 1, k) where shared is False.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import torch
        >>> from eca_multi.torch import ECA
        >>> layer = ECA(64)
        >>> layer(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """

    inserted = ""  # how surgery put it there
    filled = ""  # what stood in the slot before

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        *,
        gamma: float = 2,
        beta: float = 1,
        padding: str = "zeros",
        gate: Gate = "sigmoid",
        shared: bool = True,
        init: str = "uniform",
        channel_axis: int = 1,
        pool_axes: int | Sequence[int] | None = None,
        causal_axis: int | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        k = eca_kernel_size(self.channels, gamma=gamma, beta=beta)
        if kernel_size is not None:
            k = check_odd("kernel_size", kernel_size)
        check_padding(padding)
        check_gate(gate)
        check_init(init, gate)
        self.gamma = gamma
        self.beta = beta
        self.padding = padding
        self.gate = gate
        self.shared = shared
        self.init = init
        self.channel_axis = check_axis_type(channel_axis)
        self.pool_axes, self.causal_axis = check_pooling_types(pool_axes, causal_axis)
        shape = native_shape("torch", 1 if shared else self.channels, k)
        self.conv = ChannelKernel(Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def kernel_size(self) -> int:
        return self.conv.weight.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.conv.weight.dtype

    def reset_parameters(self) -> None:
        if self.init == "identity":
            nn.init.zeros_(self.conv.weight)  # draws no random number
        else:
            bound = self.kernel_size**-0.5
            nn.init.uniform_(self.conv.weight, -bound, bound)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        if is_scripting():
            pools: list[int] = [] if self.pool_axes is None else list(self.pool_axes)
            named = (self.padding, str(self.gate), self.channel_axis)
            return scripted_eca(x, self.conv.weight, *named, pools, self.causal_axis, mask, residual)
        options = (self.padding, self.gate, self.channel_axis, self.pool_axes, self.causal_axis)
        return checked_eca(x, self.conv.weight, *options, mask, residual, self.channels)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, padding={self.padding!r}, gate={self.gate!r}, "
            f"shared={self.shared}, init={self.init!r}, channel_axis={self.channel_axis}{self._extra_pooling()}"
        )

    def _extra_pooling(self) -> str:
        options = {"pool_axes": self.pool_axes, "causal_axis": self.causal_axis}
        return "".join(f", {name}={value}" for name, value in options.items() if value is not None)
