"""The adapter for Flax nnx, under jit."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from eca_multi.flax.nnx import ECA, ECAParam, from_canonical
from eca_multi.parity.jobs import Job

from ._jax import JaxAdapter


class NnxAdapter(JaxAdapter):
    distributions = ("flax", "jax", "jaxlib")

    def build(self, job: Job) -> tuple[Callable[..., jax.Array], Any]:
        layer = ECA(
            job.channels,
            job.kernel_size,
            shared=job.shared,
            channel_axis=self.axis(job),
            param_dtype=job.dtype,
            rngs=nnx.Rngs(0),
            **job.options,
        )
        from_canonical(layer, {"weight": job.arrays["weight"]})
        graphdef, state = nnx.split(layer, ECAParam)

        def apply(state: Any, x: jax.Array, mask: jax.Array | None) -> jax.Array:
            return nnx.merge(graphdef, state)(x, mask)

        return apply, state

    def kernel(self, tree: Any) -> Any:
        return tree["kernel"].get_value()
