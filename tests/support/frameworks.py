"""The frameworks as one table, so that one test body runs on all of them with NumPy arrays in and out.

Arrays are in the layout of `channel_axis`, which defaults to the framework's own (1 in torch, -1 elsewhere).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Framework:
    name: str  # the test's id
    kind: str  # torch, keras, linen, nnx or jax
    module: str  # of eca_multi
    native_axis: int

    @property
    def package(self) -> Any:
        return import_module(self.module)

    def build(
        self, channels: int, kernel_size: int | None = None, *, channel_axis=None, rank: int = 3, **options
    ) -> "Built":
        """Return a layer with fresh weights (for `jax`, which has no layer, the function with weights).

        Some layers read their first x: it has the given rank, so that pool_axes and causal_axis of `options` exist.
        """
        axis = self.native_axis if channel_axis is None else channel_axis
        return _BUILD[self.kind](self.package, channels, kernel_size, axis, rank, options)

    def tensor(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """Take a NumPy array to the framework's own tensor, rounded to `dtype` where that is given."""
        return _TENSOR[self.kind](np.ascontiguousarray(array), dtype)

    def numpy(self, tensor: Any) -> np.ndarray:
        """Take a tensor to float64, or to bool."""
        return _numpy(tensor)

    def dtype_of(self, tensor: Any) -> str:
        return keras.backend.standardize_dtype(tensor.dtype)


@dataclass
class Built:
    """A built layer: call it with the framework's tensors. `holder` is what from_canonical and to_canonical take."""

    layer: Any
    call: Callable[..., Any]
    holder: Any

    def __call__(self, x: Any, mask: Any = None, residual: Any = None) -> Any:
        # A residual goes along where there is one, so that a layer's call without it stays what a user writes.
        return self.call(self, x, mask, {} if residual is None else {"residual": residual})


def _torch(package, channels, kernel_size, axis, rank, options):
    layer = package.ECA(channels, kernel_size, channel_axis=axis, **options)
    return Built(layer, lambda b, x, mask, more: b.layer(x, mask, **more), layer)


def _keras(package, channels, kernel_size, axis, rank, options):
    layer = package.ECA(kernel_size, data_format="channels_first" if axis == 1 else "channels_last", **options)
    layer.build(_shape(channels, axis, rank, None))
    return Built(layer, lambda b, x, mask, more: b.layer(x, mask=mask, **more), layer)


def _linen(package, channels, kernel_size, axis, rank, options):
    import jax
    import jax.numpy as jnp

    options = {("kernel_init" if key == "init" else key): value for key, value in options.items()}
    layer = package.ECA(kernel_size, channel_axis=axis, **options)
    variables = layer.init(jax.random.key(0), jnp.zeros(_shape(channels, axis, rank, 1)))
    return Built(layer, lambda b, x, mask, more: b.layer.apply(b.holder, x, mask, **more), variables)


def _nnx(package, channels, kernel_size, axis, rank, options):
    from flax import nnx

    layer = package.ECA(channels, kernel_size, channel_axis=axis, rngs=nnx.Rngs(0), **options)
    return Built(layer, lambda b, x, mask, more: b.layer(x, mask, **more), layer)


def _jax(package, channels, kernel_size, axis, rank, options):
    """The function, with a linen layer's fresh kernel."""
    named = ("padding", "gate", "pool_axes", "causal_axis")
    call_options = {key: options[key] for key in named if key in options}
    linen = import_module("eca_multi.flax.linen")
    variables = _linen(linen, channels, kernel_size, axis, rank, options).holder

    def call(built, x, mask, more):
        kernel = built.holder["params"]["kernel"]
        return package.eca(x, kernel, channel_axis=axis, mask=mask, **call_options, **more)

    return Built(package.eca, call, variables)


def _shape(channels, axis, rank, extent):
    shape = [extent] * rank
    shape[axis if isinstance(axis, int) and -rank <= axis < rank else -1] = channels  # the layer refuses another axis
    return tuple(shape)


def _torch_tensor(array, dtype):
    import torch

    tensor = torch.from_numpy(array)
    return tensor if dtype is None else tensor.to(getattr(torch, dtype))


def _jax_tensor(array, dtype):
    import jax.numpy as jnp

    return jnp.asarray(array, dtype)


def _keras_tensor(array, dtype):
    return keras.ops.convert_to_tensor(array, dtype)


def _numpy(tensor: Any) -> np.ndarray:
    array = tensor.detach().cpu() if hasattr(tensor, "detach") else tensor
    if hasattr(array, "is_floating_point") and array.is_floating_point():
        array = array.double()
    array = np.asarray(array)
    return array if array.dtype == bool else array.astype(np.float64)


_BUILD = {"torch": _torch, "keras": _keras, "linen": _linen, "nnx": _nnx, "jax": _jax}
_TENSOR = {
    "torch": _torch_tensor,
    "keras": _keras_tensor,
    "linen": _jax_tensor,
    "nnx": _jax_tensor,
    "jax": _jax_tensor,
}

FRAMEWORKS = (
    Framework("torch", "torch", "eca_multi.torch", 1),
    Framework(f"keras-{keras.backend.backend()}", "keras", "eca_multi.keras", -1),
    Framework("linen", "linen", "eca_multi.flax.linen", -1),
    Framework("nnx", "nnx", "eca_multi.flax.nnx", -1),
    Framework("jax", "jax", "eca_multi.jax", -1),
)
