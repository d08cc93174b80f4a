"""The ECA layer for Keras 3."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import keras
from keras import ops

from eca_multi._canonical import native_shape
from eca_multi._errors import (
    check_beta,
    check_channel_axis,
    check_channels,
    check_circular,
    check_floating,
    check_gamma,
    check_gate,
    check_init,
    check_known_channels,
    check_mask,
    check_odd,
    check_padding,
    several_tensors,
)
from eca_multi._kernel import eca_kernel_size
from eca_multi._pooling import check_pooling, check_pooling_types, check_residual_shape

from .functional import Gate, Tensor, eca, is_bool, is_floating


@keras.saving.register_keras_serializable(package="eca_multi")
class ECA(keras.layers.Layer):
    """Efficient Channel Attention: y = x * gate(convolution over the channels of the spatial mean of x).

    The number of channels C is read from x.

    Args:
        kernel_size: Odd size k of the kernel. None takes `eca_kernel_size(C, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule; unused where `kernel_size` is given.
        padding: "zeros" or "circular", over the channels.
        gate: "sigmoid", "hard_sigmoid", "2sigmoid" (2 * sigmoid), or a function of the logits.
        shared: True for one kernel for all channels, False for one per channel (ECA-NS).
        init: "uniform" is U(-1/sqrt(k), 1/sqrt(k)); "identity" is zeros and needs gate="2sigmoid", so that the
            layer returns x until it is trained.
        data_format: "channels_last" for (N, *S, C), "channels_first" for (N, C, *S); None takes
            `keras.config.image_data_format()`.
        pool_axes: Axes of the input to average over; None is all but batch and channels. Each position of an axis
            that is left out has gates of its own: the frames of a video, say.
        causal_axis: The pooled axis along which a position sees itself and what lies before it; 1 in (N, T, C).
        kernel_initializer: Instead of `init`.
        kernel_regularizer, kernel_constraint: For the kernel.
        **kwargs: `name`, `dtype`, `trainable`, ... of every Keras layer.

    Call arguments:
        inputs: Tensor (N, *S, C) of rank >= 3 in any floating-point dtype.
        mask: Boolean, broadcastable to (N, *S): True where a position counts for the mean. Keras passes its own mask
            (N, T) here, which holds for all axes behind T, and passes it on.
        residual: Tensor of the inputs' shape, which Keras casts to the compute dtype as the inputs; y = x * gate +
            residual, the end of a residual block.
        inputs_mask: Where Keras puts its own mask of `inputs` if a residual is given; `mask` wins over it.

    Output shape:
        As the input, in the layer's compute dtype. Weights: `kernel` of shape (k, 1, 1), or (k, 1, C) where shared
        is False; it stays in the variable dtype under mixed precision.

    Raises:
        TypeError, ValueError: As listed in docs/errors.md.

    Example:
        >>> import numpy as np
        >>> from eca_multi.keras import ECA
        >>> tuple(ECA()(np.ones((2, 14, 14, 64), "float32")).shape)
        (2, 14, 14, 64)

    Source: Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020.
    """

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
        data_format: str | None = None,
        pool_axes: int | Sequence[int] | None = None,
        causal_axis: int | None = None,
        kernel_initializer: Any = None,
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kernel_size is not None:
            kernel_size = check_odd("kernel_size", kernel_size)
        eca_kernel_size(1, gamma=gamma, beta=beta)  # raise for a bad constant here, not in build
        check_padding(padding)
        check_gate(gate)
        check_init(init, gate)
        if init == "identity" and kernel_initializer is not None:
            raise ValueError(
                "kernel_initializer must be None when init='identity'. "
                f"Received: kernel_initializer={kernel_initializer!r}. Leave one of the two out."
            )
        self.kernel_size = kernel_size
        self.gamma = gamma
        self.beta = beta
        self.padding = padding
        self.gate = gate
        self.shared = bool(shared)
        self.init = init
        self.data_format = check_data_format(data_format)
        self.pool_axes, self.causal_axis = check_pooling_types(pool_axes, causal_axis)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.supports_masking = True

    @property
    def channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        axis = check_channel_axis(self.channel_axis, input_shape)
        check_pooling(self.pool_axes, self.causal_axis, axis, input_shape)
        channels = check_known_channels(input_shape[axis], input_shape)
        k = self.kernel_size
        if k is None:
            k = eca_kernel_size(channels, gamma=self.gamma, beta=self.beta)
        check_circular(self.padding, k, channels)
        bound = 0.0 if self.init == "identity" else k**-0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=native_shape("keras", 1 if self.shared else channels, k),
            initializer=self.kernel_initializer or keras.initializers.RandomUniform(-bound, bound),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            autocast=False,  # eca widens to float32; a rounding to the compute dtype first would lose bits
        )
        self.input_spec = keras.InputSpec(min_ndim=3, axes={self.channel_axis: channels})
        self.built = True

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # Check before Keras converts or checks anything, so that the errors read as in every framework.
        if isinstance(inputs, list | tuple | dict) and any(hasattr(x, "dtype") for x in keras.tree.flatten(inputs)):
            raise several_tensors("x", inputs)
        if hasattr(inputs, "dtype") or isinstance(inputs, str | bytes):
            self._check(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        residual: Tensor | None = None,
        inputs_mask: Tensor | None = None,
    ) -> Tensor:
        return eca(
            inputs,
            self.kernel,
            padding=self.padding,
            gate=self.gate,
            channel_axis=self.channel_axis,
            pool_axes=self.pool_axes,
            causal_axis=self.causal_axis,
            mask=_full_mask(inputs_mask if mask is None else mask, inputs),
            residual=residual,
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        check_channel_axis(self.channel_axis, input_shape)
        return tuple(input_shape)

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        residual: Tensor | None = None,
        inputs_mask: Tensor | None = None,
    ) -> keras.KerasTensor:
        axis = self._check(inputs)
        check_pooling(self.pool_axes, self.causal_axis, axis, inputs.shape)
        mask = inputs_mask if mask is None else mask
        if mask is not None:
            check_mask(is_bool(mask), _full_mask(mask, inputs), axis, inputs.shape)
        if residual is not None:
            check_floating("residual", is_floating(residual), residual)
            check_residual_shape(residual.shape, inputs.shape)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        gate = self.gate if isinstance(self.gate, str) else keras.saving.serialize_keras_object(self.gate)
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "gamma": _plain(self.gamma, check_gamma),
            "beta": _plain(self.beta, check_beta),
            "padding": self.padding,
            "gate": gate,
            "shared": self.shared,
            "init": self.init,
            "data_format": self.data_format,
            "pool_axes": self.pool_axes,
            "causal_axis": self.causal_axis,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ECA":
        config = dict(config)
        if isinstance(config.get("gate"), dict):
            config["gate"] = keras.saving.deserialize_keras_object(config["gate"])
        for name in ("gamma", "beta"):
            if isinstance(config.get(name), str):
                config[name] = Fraction(config[name])
        return super().from_config(config)

    def _check(self, x: Tensor) -> int:
        check_floating("x", is_floating(x), x)
        axis = check_channel_axis(self.channel_axis, x.shape)
        if self.built:
            check_channels(self.input_spec.axes[self.channel_axis], axis, x.shape)
        return axis


def check_data_format(data_format: str | None) -> str:
    """Return "channels_first" or "channels_last"; None takes Keras's own setting."""
    if data_format is None:
        data_format = keras.config.image_data_format()
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "data_format must be 'channels_first' or 'channels_last'. "
            f"Received: data_format={data_format!r}. None takes Keras's own setting."
        )
    return data_format


def _plain(value: Any, check: Callable[[Any], Fraction]) -> int | float | str:
    """A constant for JSON: an int or float itself, a Fraction or Decimal as text, so that no digit is lost."""
    return value if type(value) in (int, float) else str(check(value))


def _full_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Give Keras's own mask (N, T), which holds for all axes behind T, those axes."""
    if len(getattr(mask, "shape", ())) != 2 or len(x.shape) <= 3:
        return mask
    return ops.expand_dims(mask, tuple(range(2, len(x.shape) - 1)))
