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

    def build(self, channels: int, kernel_size: int | None = None, *, channel_axis=None, **options) -> "Built":
        """Return a layer with fresh weights (for `jax`, which has no layer, the function with weights)."""
        axis = self.native_axis if channel_axis is None else channel_axis
        return _BUILD[self.kind](self.package, channels, kernel_size, axis, options)

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

    def __call__(self, x: Any, mask: Any = None) -> Any:
        return self.call(self, x, mask)


def _torch(package, channels, kernel_size, axis, options):
    layer = package.ECA(channels, kernel_size, channel_axis=axis, **options)
    return Built(layer, lambda b, x, mask: b.layer(x, mask), layer)


def _keras(package, channels, kernel_size, axis, options):
    layer = package.ECA(kernel_size, data_format="channels_first" if axis == 1 else "channels_last", **options)
    layer.build((None, channels, None) if axis == 1 else (None, None, channels))
    return Built(layer, lambda b, x, mask: b.layer(x, mask=mask), layer)


def _linen(package, channels, kernel_size, axis, options):
    import jax
    import jax.numpy as jnp

    options = {("kernel_init" if key == "init" else key): value for key, value in options.items()}
    layer = package.ECA(kernel_size, channel_axis=axis, **options)
    shape = (1, channels, 1) if axis == 1 else (1, 1, channels)
    variables = layer.init(jax.random.key(0), jnp.zeros(shape))
    return Built(layer, lambda b, x, mask: b.layer.apply(b.holder, x, mask), variables)


def _nnx(package, channels, kernel_size, axis, options):
    from flax import nnx

    layer = package.ECA(channels, kernel_size, channel_axis=axis, rngs=nnx.Rngs(0), **options)
    return Built(layer, lambda b, x, mask: b.layer(x, mask), layer)


def _jax(package, channels, kernel_size, axis, options):
    """The function, with a linen layer's fresh kernel."""
    call_options = {key: options[key] for key in ("padding", "gate") if key in options}
    linen = import_module("eca_multi.flax.linen")
    variables = _linen(linen, channels, kernel_size, axis, options).holder

    def call(built, x, mask):
        kernel = built.holder["params"]["kernel"]
        return package.eca(x, kernel, channel_axis=axis, mask=mask, **call_options)

    return Built(package.eca, call, variables)


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
