"""The adapter for Flax linen, under jit."""

from collections.abc import Callable
from typing import Any

import jax

from eca_multi.flax.linen import ECA, from_canonical
from eca_multi.parity.jobs import Job, move_channels

from ._jax import JaxAdapter


class LinenAdapter(JaxAdapter):
    distributions = ("flax", "jax", "jaxlib")

    def build(self, job: Job) -> tuple[Callable[..., jax.Array], Any]:
        layer = ECA(
            job.kernel_size,
            shared=job.shared,
            channel_axis=self.axis(job),
            param_dtype=job.dtype,
            **job.options,
        )
        x = move_channels(job.arrays["x"], self.axis(job))
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x)  # the weights come from the job
        variables = from_canonical(shapes, {"weight": job.arrays["weight"]})
        return layer.apply, variables

    def kernel(self, tree: Any) -> Any:
        return tree["params"]["kernel"]
