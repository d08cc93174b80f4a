"""The ECA layer for Flax nnx."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from eca_multi._canonical import native_shape
from eca_multi._errors import (
    check_axis_names,
    check_axis_type,
    check_channel_axis,
    check_channels,
    check_gate,
    check_init,
    check_odd,
    check_padding,
    check_positive_int,
)
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling_types
from eca_multi.jax._mesh import AxisName, axis_size
from eca_multi.jax.functional import Gate, PoolAxes, as_floating, eca


class ECAParam(nnx.Param):
    """The kernel of an `ECA`: a type of its own, so that filters find just these.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, ECAParam
        >>> graphdef, kernels, rest = nnx.split(ECA(64, rngs=nnx.Rngs(0)), ECAParam, ...)
        >>> kernels["kernel"].shape
        (3, 1, 1)
    """


class ECA(nnx.Module):
    """Efficient Channel Attention: y = x * gate(convolution over the channels of the spatial mean of x) (+ residual).

    Args:
        channels: Number of channels C of x.
        kernel_size: Odd size k of the kernel. None takes `eca_kernel_size(channels, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule; unused where `kernel_size` is given.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid), or a function of the logits (N, C, *kept).
        shared: True for one kernel for all channels, False for one per channel (ECA-NS).
        init: "uniform" is U(-1/sqrt(k), 1/sqrt(k)); "identity" is zeros and needs gate="2sigmoid", so that the
            layer returns x until it is trained.
        channel_axis: Axis of the channels, not 0: -1 for (N, *S, C), 1 for (N, C, *S).
        pool_axes: Axes of x to average over; None is all but the batch and the channels. Gates vary along the others.
        causal_axis: The pooled axis along which the mean of a position runs over itself and what lies before it;
            gates vary along it too. See docs/sequences.md.
        dtype: Convert x and the residual to it first; None keeps x's.
        param_dtype: Of the parameter.
        axis_name, channel_axis_name: Inside `jax.shard_map`, the mesh axes over which the positions of a mean are
            spread, and the one over which the channels are; `channels` counts those of all devices.
        rngs: Its `params` stream draws the kernel.

    Shape:
        x: (N, *S, C) of rank >= 3 in any floating-point dtype. mask: boolean, broadcastable to (N, *S).
        residual: as x; it is added to the product, in one pass.
        Output: as x, in x's dtype (or `dtype`). Parameters: `kernel`, an `ECAParam` of shape (k, 1, 1), or (k, 1, C)
        where shared is False.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA
        >>> layer = ECA(64, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 14, 14, 64))).shape
        (2, 14, 14, 64)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """

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
        channel_axis: int = -1,
        pool_axes: PoolAxes = None,
        causal_axis: int | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        axis_name: AxisName = None,
        channel_axis_name: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.channels = check_positive_int("channels", channels)
        k = eca_kernel_size(self.channels, gamma=gamma, beta=beta)
        if kernel_size is not None:
            k = check_odd("kernel_size", kernel_size)
        check_padding(padding)
        check_gate(gate)
        check_init(init, gate)
        check_axis_names(axis_name, channel_axis_name)
        self.gamma = gamma
        self.beta = beta
        self.padding = padding
        self.gate = gate
        self.shared = shared
        self.init = init
        self.channel_axis = check_axis_type(channel_axis)
        self.pool_axes, self.causal_axis = check_pooling_types(pool_axes, causal_axis)
        self.dtype = dtype
        self.axis_name = axis_name
        self.channel_axis_name = channel_axis_name
        shape = native_shape("nnx", 1 if shared else self.channels, k)
        bound = 0.0 if init == "identity" else k**-0.5
        self.kernel = ECAParam(jax.random.uniform(rngs.params(), shape, param_dtype, -bound, bound))

    @property
    def kernel_size(self) -> int:
        return int(self.kernel.shape[-3])  # from the back: layers made under vmap are stacked in front

    @property
    def param_dtype(self) -> DTypeLike:
        return self.kernel.dtype

    def __call__(self, x: ArrayLike, mask: ArrayLike | None = None, residual: ArrayLike | None = None) -> jax.Array:
        x = as_floating("x", x, self.dtype)
        if residual is not None:
            residual = as_floating("residual", residual, self.dtype)
        axis = check_channel_axis(self.channel_axis, x.shape)
        whole = x.shape[axis] * axis_size(self.channel_axis_name)
        check_channels(self.channels, axis, (*x.shape[:axis], whole, *x.shape[axis + 1 :]))
        return eca(
            x,
            self.kernel[...],
            padding=self.padding,
            gate=self.gate,
            channel_axis=axis,
            pool_axes=self.pool_axes,
            causal_axis=self.causal_axis,
            mask=mask,
            residual=residual,
            axis_name=self.axis_name,
            channel_axis_name=self.channel_axis_name,
        )
