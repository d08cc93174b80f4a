"""The initial weights that both linen and nnx draw."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from eca_multi.networks import Network
from eca_multi.surgery.entry import ECAEntry


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


def kernel_of(entry: ECAEntry, init: str, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Return zeros, or numbers that the site's path alone decides: no random stream of the user is drawn from."""
    if init == "identity":
        return jnp.zeros(shape, dtype)
    bound = entry.kernel_size**-0.5
    return jax.random.uniform(jax.random.key(zlib.crc32(entry.path.encode())), shape, dtype, -bound, bound)
