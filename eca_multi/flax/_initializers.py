"""The initial weights that both linen and nnx draw."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from eca_multi.networks import Network


def uniform(bound: float) -> Initializer:
    """U(-bound, bound); jax.nn.initializers.uniform has no negative side."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init


def classifier_initializers(network: Network) -> dict[str, Initializer]:
    """Return `kernel_init` as torchvision draws it, and `bias_init` where that is not zeros."""
    if network.classifier_spread is not None:
        return {"kernel_init": jax.nn.initializers.normal(network.classifier_spread)}
    return dict.fromkeys(("kernel_init", "bias_init"), uniform(network.width**-0.5))
