"""The ECA layer for PyTorch."""

from typing import Any

import torch
from torch import nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # listed nowhere
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import Parameter, UninitializedParameter, is_lazy

from eca_multi._canonical import native_kernel, native_shape
from eca_multi._errors import (
    check_axis_type,
    check_channel_axis,
    check_circular,
    check_gate,
    check_init,
    check_kernel,
    check_odd,
    check_padding,
    check_positive_int,
    spatial_axes,
)
from eca_multi._kernel import eca_kernel_size

from ._gate import Gate
from ._scripted import scripted_eca
from .functional import attend, require_floating, require_mask


class ChannelKernel(nn.Module):
    """Holds `weight`, so that it is called `conv.weight` as in every ECA checkpoint.

    Not an nn.Conv1d: code that walks a model to initialise, quantise or replace convolutions must not find it.
    """

    def __init__(self, weight: Parameter) -> None:
        super().__init__()
        self.weight = weight

    def extra_repr(self) -> str:
        return "weight not known yet" if is_lazy(self.weight) else f"weight {tuple(self.weight.shape)}"


class ECA(nn.Module):
    """Efficient Channel Attention: y = x * gate(convolution over the channels of the spatial mean of x).

    Args:
        channels: Number of channels C of x.
        kernel_size: Odd size k of the kernel. None takes `eca_kernel_size(channels, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule; unused where `kernel_size` is given.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid), or a function of the logits (N, C).
        shared: True for one kernel for all channels, False for one per channel (ECA-NS).
        init: "uniform" is U(-1/sqrt(k), 1/sqrt(k)); "identity" is zeros and needs gate="2sigmoid", so that the
            layer returns x until it is trained.
        channel_axis: Axis of the channels, not 0: 1 for (N, C, *S), -1 for (N, *S, C).
        device, dtype: Of the parameter.

    Shape:
        x: (N, C, *S) of rank >= 3 in any floating-point dtype. mask: boolean, broadcastable to (N, *S).
        Output: as x, in x's dtype. State: `conv.weight` of shape (1, 1, k), or (C, 1, k) where shared is False.

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

    channels: int
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
        self.padding = padding
        self.gate = gate
        self.shared = shared
        self.init = init
        self.channel_axis = check_axis_type(channel_axis)
        shape = native_shape("torch", 1 if shared else self.channels, k)
        self.conv = ChannelKernel(Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def kernel_size(self) -> int:
        return self.conv.weight.shape[-1]

    def reset_parameters(self) -> None:
        if is_lazy(self.conv.weight):  # nothing to draw yet; the first call does
            return
        if self.init == "identity":
            nn.init.zeros_(self.conv.weight)  # without a random number
        else:
            bound = self.kernel_size**-0.5
            nn.init.uniform_(self.conv.weight, -bound, bound)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if is_scripting():
            return scripted_eca(x, self.conv.weight, self.padding, str(self.gate), self.channel_axis, mask)
        return checked_eca(x, self.conv.weight, self.padding, self.gate, self.channels, self.channel_axis, mask)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, padding={self.padding!r}, gate={self.gate!r}, "
            f"shared={self.shared}, init={self.init!r}, channel_axis={self.channel_axis}"
        )


def checked_eca(
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: str,
    gate: Gate,
    channels: int,
    channel_axis: int,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The layer's call. One step in a graph of torch.fx, so that networks with ECA can be traced and fused."""
    y, _ = attend(x, weight, padding, gate, channel_axis, mask, channels)
    return y


torch.fx.wrap("checked_eca")


class LazyChannelKernel(LazyModuleMixin, ChannelKernel):
    cls_to_become = ChannelKernel

    def initialize_parameters(self, shape: tuple[int, ...]) -> None:
        if isinstance(self.weight, UninitializedParameter):
            self.weight.materialize(shape)


class LazyECA(LazyModuleMixin, ECA):
    """An `ECA` that reads the number of channels from its first input and then becomes an `ECA`.

    Args:
        kernel_size, gamma, beta, padding, gate, shared, init, channel_axis, device, dtype: As in `ECA`.

    Call the model once before an optimizer, torch.export, DistributedDataParallel or fully_shard sees it.

    Example:
        >>> import torch
        >>> from eca_multi.torch import LazyECA
        >>> layer = LazyECA()
        >>> _ = layer(torch.randn(2, 64, 14, 14))
        >>> layer
        ECA(
          64, kernel_size=3, padding='zeros', gate='sigmoid', shared=True, init='uniform', channel_axis=1
          (conv): ChannelKernel(weight (1, 1, 3))
        )
    """

    cls_to_become = ECA
    conv: LazyChannelKernel

    def __init__(
        self,
        kernel_size: int | None = None,
        *,
        gamma: float = 2,
        beta: float = 1,
        padding: str = "zeros",
        gate: Gate = "sigmoid",
        shared: bool = True,
        init: str = "uniform",
        channel_axis: int = 1,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        eca_kernel_size(1, gamma=gamma, beta=beta)  # a bad constant is said here, not at the first call
        options: dict[str, Any] = {"padding": padding, "gate": gate, "shared": shared, "init": init}
        size = 1 if kernel_size is None else kernel_size
        super().__init__(1, size, channel_axis=channel_axis, device="meta", **options)
        self.channels = 0
        self._rule: dict[str, Any] = {"gamma": gamma, "beta": beta}
        self._given_size = kernel_size
        self.conv = LazyChannelKernel(UninitializedParameter(device=device, dtype=dtype))  # type: ignore[call-arg]  # untyped in torch

    def has_uninitialized_params(self) -> bool:
        return is_lazy(self.conv.weight)

    def initialize_parameters(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        # Whatever forward would refuse is refused before the channels are fixed.
        require_floating("x", x)
        axis = check_channel_axis(self.channel_axis, x.shape)
        spatial_axes(axis, x.shape)
        channels = check_positive_int("channels", x.shape[axis])
        fresh = self.has_uninitialized_params()
        shape = self._shape(channels) if fresh else tuple(self.conv.weight.shape)
        if mask is not None:
            require_mask(mask, axis, x)
        kernels, taps = native_kernel("torch", shape)
        check_circular(self.padding, check_kernel(kernels, taps, channels, shape), channels)
        del self._rule, self._given_size  # an ECA reads its size off the weight
        self.channels = channels
        self.conv._infer_parameters(self.conv, (shape,))
        if fresh:
            self.reset_parameters()

    def _shape(self, channels: int) -> tuple[int, int, int]:
        k = self._given_size
        if k is None:
            k = eca_kernel_size(channels, **self._rule)
        return native_shape("torch", 1 if self.shared else channels, k)

    def extra_repr(self) -> str:
        return f"padding={self.padding!r}, gate={self.gate!r}, shared={self.shared}, init={self.init!r}"
