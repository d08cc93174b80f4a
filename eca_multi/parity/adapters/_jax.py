"""The adapter for the JAX function, under jit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_multi._canonical import native_shape, pack
from eca_multi.jax import eca
from eca_multi.parity.jobs import Job, Outputs, Tensor, move_channels, restore_channels

from .base import Adapter, widen


class JaxAdapter(Adapter):
    distributions: tuple[str, ...] = ("jax", "jaxlib")

    def run(self, job: Job) -> Outputs:
        apply, weight = self.build(job)
        axis = self.axis(job)
        x = jnp.asarray(move_channels(job.arrays["x"], axis), job.dtype)
        cotangent = jnp.asarray(move_channels(job.arrays["cotangent"], axis), job.dtype)
        mask = jnp.asarray(job.arrays["mask"]) if "mask" in job.arrays else None

        @jax.jit
        def run(weight: Any, x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, Any]:
            y, vjp = jax.vjp(lambda w, x: apply(w, x, mask), weight, x)
            return y, vjp(cotangent)

        y, (dw, dx) = run(weight, x, cotangent)
        return {
            "y": widen(restore_channels(np.asarray(y), axis)),
            "dx": widen(restore_channels(np.asarray(dx), axis)),
            "dw": canonical(np.asarray(self.kernel(dw))),
        }

    def build(self, job: Job) -> tuple[Callable[..., jax.Array], Any]:
        """Return the function of (weight, x, mask) and the weight, in whatever tree the framework keeps it."""

        def apply(weight: jax.Array, x: jax.Array, mask: jax.Array | None) -> jax.Array:
            return eca(x, weight, channel_axis=self.axis(job), mask=mask, **job.options)

        shape = native_shape("jax", 1 if job.shared else job.channels, job.kernel_size)
        return apply, jnp.asarray(job.arrays["weight"].T.reshape(shape), job.dtype)

    def kernel(self, tree: Any) -> Any:
        """Take the kernel's array out of a tree like `build`'s weight."""
        return tree


def canonical(native_gradient: np.ndarray) -> Tensor:
    result = widen(native_gradient)
    return Tensor(pack("jax", result.values)["weight"], result.dtype)
