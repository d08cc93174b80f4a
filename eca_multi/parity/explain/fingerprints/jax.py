"""JAX's fingerprint. XLA compiles each operation; `graph` compiles several as one."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .primitives import Facts, Primitives


class Framework(Primitives):
    sigmoid = staticmethod(jax.nn.sigmoid)

    def tensor(self, array: np.ndarray) -> Any:
        return jax.device_put(array)  # jnp.asarray would compile a program for each shape

    def numpy(self, tensor: jax.Array) -> np.ndarray:
        return np.asarray(tensor)

    def conv1d(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    def window_mean(self, x: jax.Array, size: int) -> jax.Array:
        # What Flax's and Keras's pooling call; a Python zero would not be differentiated.
        return jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, (1, size, 1), (1, 1, 1), "VALID") / size

    def vjp(self, function: Callable[[Any], Any], at: Any, cotangent: Any) -> Any:
        # Not under jit, where XLA would fold the tensors that `function` closes over as constants, by other code.
        return jax.vjp(function, at)[1](cotangent)[0]

    def graph(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)

    def facts(self, sample: jax.Array) -> Facts:
        (device,) = sample.devices()
        return {
            "flag.matmul_precision": lambda: str(jax.config.values["jax_default_matmul_precision"] or "default"),
            "flag.x64": lambda: bool(jax.config.values["jax_enable_x64"]),
            "flag.xla": lambda: os.environ.get("XLA_FLAGS", "").strip(),
            "device.platform": lambda: device.platform,
            "device.kind": lambda: device.device_kind,
            "version.framework": lambda: f"jax {jax.__version__}",
        }
