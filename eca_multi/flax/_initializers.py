"""The initial weights of a classifier, as torchvision draws them."""

from typing import Any

import jax
import jax.numpy as jnp

from eca_multi.networks import Network


def classifier_initializers(network: Network) -> dict[str, Any]:
    """Return `kernel_init`, and `bias_init` where it is not zeros."""
    if network.classifier_spread is not None:
        return {"kernel_init": jax.nn.initializers.normal(network.classifier_spread)}
    bound = network.width**-0.5

    def even(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return {"kernel_init": even, "bias_init": even}
