"""The ECA layer for Flax linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from eca_multi._canonical import native_shape
from eca_multi._errors import (
    check_axis_names,
    check_axis_type,
    check_channel_axis,
    check_gate,
    check_init,
    check_odd,
    check_padding,
)
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling_types
from eca_multi.flax._initializers import uniform
from eca_multi.jax._mesh import AxisName
from eca_multi.jax.functional import Gate, PoolAxes, as_floating, eca


class ECA(nn.Module):
    """Efficient Channel Attention: y = x * gate(convolution over the channels of the spatial mean of x) (+ residual).

    The number of channels C is read from x.

    Args:
        kernel_size: Odd size k of the kernel. None takes `eca_kernel_size(C, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule; unused where `kernel_size` is given.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid), or a function of the logits (N, C, *kept).
        shared: True for one kernel for all channels, False for one per channel (ECA-NS).
        kernel_init: `init` of the other frameworks (a linen module has a method of that name): "uniform" is
            U(-1/sqrt(k), 1/sqrt(k)); "identity" is zeros and needs gate="2sigmoid", so that the layer returns x
            until it is trained. Or an initializer function (key, shape, dtype), as in every layer of Flax.
        channel_axis: Axis of the channels, not 0: -1 for (N, *S, C), 1 for (N, C, *S).
        pool_axes: Axes of x to average over; None is all but the batch and the channels. Gates vary along the others.
        causal_axis: The pooled axis along which the mean of a position runs over itself and what lies before it;
            gates vary along it too. See docs/sequences.md.
        dtype: Convert x and the residual to it first; None keeps x's.
        param_dtype: Of the parameter.
        axis_name, channel_axis_name: Inside `jax.shard_map`, the mesh axes over which the positions of a mean are
            spread, and the one over which the channels are. `init` ignores them: call it outside, on x as a whole.

    Shape:
        x: (N, *S, C) of rank >= 3 in any floating-point dtype. mask: boolean, broadcastable to (N, *S).
        residual: as x; it is added to the product, in one pass.
        Output: as x, in x's dtype (or `dtype`). Parameters: `kernel` of shape (k, 1, 1), or (k, 1, C) where shared
        is False.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eca_multi.flax.linen import ECA
        >>> x = jnp.ones((2, 14, 14, 64))
        >>> y, variables = ECA().init_with_output(jax.random.key(0), x)
        >>> y.shape, variables["params"]["kernel"].shape
        ((2, 14, 14, 64), (3, 1, 1))

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """

    kernel_size: int | None = None
    gamma: float = 2
    beta: float = 1
    padding: str = "zeros"
    gate: Gate = "sigmoid"
    shared: bool = True
    kernel_init: str | Initializer = "uniform"
    channel_axis: int = -1
    pool_axes: PoolAxes = None
    causal_axis: int | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    axis_name: AxisName = None
    channel_axis_name: str | None = None

    def __post_init__(self) -> None:
        if self.kernel_size is not None:
            check_odd("kernel_size", self.kernel_size)
        eca_kernel_size(1, gamma=self.gamma, beta=self.beta)
        check_padding(self.padding)
        check_gate(self.gate)
        if not callable(self.kernel_init):
            check_init(self.kernel_init, self.gate, "kernel_init", "an initializer function")
        check_axis_type(self.channel_axis)
        self.pool_axes, self.causal_axis = check_pooling_types(self.pool_axes, self.causal_axis)
        check_axis_names(self.axis_name, self.channel_axis_name)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: ArrayLike, mask: ArrayLike | None = None, residual: ArrayLike | None = None) -> jax.Array:
        x = as_floating("x", x, self.dtype)
        if residual is not None:
            residual = as_floating("residual", residual, self.dtype)
        axis = check_channel_axis(self.channel_axis, x.shape)
        channels = x.shape[axis]
        k = self._kernel_size(channels)
        shape = native_shape("linen", 1 if self.shared else channels, k)
        bound = 0.0 if self.kernel_init == "identity" else k**-0.5
        initializer = self.kernel_init if callable(self.kernel_init) else uniform(bound)
        kernel = self.param("kernel", initializer, shape, self.param_dtype)
        return eca(
            x,
            kernel,
            padding=self.padding,
            gate=self.gate,
            channel_axis=axis,
            pool_axes=self.pool_axes,
            causal_axis=self.causal_axis,
            mask=mask,
            residual=residual,
            axis_name=None if self.is_initializing() else self.axis_name,
            channel_axis_name=None if self.is_initializing() else self.channel_axis_name,
        )

    def _kernel_size(self, channels: int) -> int:
        if self.kernel_size is not None:
            return self.kernel_size
        if self.has_variable("params", "kernel"):  # weights that exist keep their size, whatever the rule says
            return int(meta.unbox(self.get_variable("params", "kernel")).shape[0])
        return eca_kernel_size(channels, gamma=self.gamma, beta=self.beta)
