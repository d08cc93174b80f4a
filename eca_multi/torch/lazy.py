"""The ECA layer that reads its number of channels from its first input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from eca_multi._canonical import native_kernel, native_shape
from eca_multi._errors import check_channel_axis, check_circular, check_kernel, check_positive_int
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling

from ._tensor_lines import Gate
from .functional import require_floating, require_mask, require_residual
from .layers import ECA, ChannelKernel


class LazyChannelKernel(LazyModuleMixin, ChannelKernel):
    """A kernel without a shape: the mixin takes the shape from a state dict that is loaded."""

    def extra_repr(self) -> str:
        return "weight not known yet" if is_lazy(self.weight) else super().extra_repr()


class LazyECA(LazyModuleMixin, ECA):
    """An `ECA` that reads the number of channels from its first input and then becomes an `ECA`.

    Args:
        kernel_size, gamma, beta, padding, gate, shared, init, channel_axis, pool_axes, causal_axis: As in `ECA`.
        device, dtype: As in `ECA`.

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
        pool_axes: int | Sequence[int] | None = None,
        causal_axis: int | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rule: dict[str, Any] = {"gamma": gamma, "beta": beta}
        options: dict[str, Any] = {"padding": padding, "gate": gate, "shared": shared, "init": init}
        options |= {"channel_axis": channel_axis, "pool_axes": pool_axes, "causal_axis": causal_axis}
        super().__init__(1, 1 if kernel_size is None else kernel_size, device="meta", **rule, **options)
        self.channels = 0
        self._requested_size = kernel_size
        self.conv = LazyChannelKernel(UninitializedParameter(device=device, dtype=dtype))  # type: ignore[call-arg]  # untyped in torch

    @property
    def kernel_size(self) -> Any:
        """As requested, until the kernel has a shape."""
        return self._requested_size if self.has_uninitialized_params() else self.conv.weight.shape[-1]

    def has_uninitialized_params(self) -> bool:
        return is_lazy(self.conv.weight)

    def initialize_parameters(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, residual: torch.Tensor | None = None
    ) -> None:
        # Refuse all that forward would refuse before the channels are fixed.
        require_floating("x", x)
        axis = check_channel_axis(self.channel_axis, x.shape)
        check_pooling(self.pool_axes, self.causal_axis, axis, x.shape)
        channels = check_positive_int("channels", x.shape[axis])
        fresh = self.has_uninitialized_params()
        k = self.kernel_size
        if k is None:
            k = eca_kernel_size(channels, gamma=self.gamma, beta=self.beta)
        shape = native_shape("torch", 1 if self.shared else channels, k) if fresh else tuple(self.conv.weight.shape)
        if mask is not None:
            require_mask(mask, axis, x)
        if residual is not None:
            require_residual(residual, x)
        kernels, taps = native_kernel("torch", shape)
        check_circular(self.padding, check_kernel(kernels, taps, channels, shape), channels)
        del self._requested_size  # an ECA reads its size off the weight
        self.channels = channels
        weight = self.conv.weight
        if isinstance(weight, UninitializedParameter):
            weight.materialize(shape)
        self.conv = ChannelKernel(weight)
        if fresh:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if not is_lazy(self.conv.weight):  # a kernel without a shape is drawn at the first call
            super().reset_parameters()

    def extra_repr(self) -> str:
        options = f"padding={self.padding!r}, gate={self.gate!r}, shared={self.shared}, init={self.init!r}"
        return options + self._extra_pooling()
