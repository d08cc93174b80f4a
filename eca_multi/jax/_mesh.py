"""What a device does inside `jax.shard_map` where a mesh axis spreads the positions or the channels of x."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

AxisName = str | tuple[str, ...] | None


def across(reduction: Callable[..., jax.Array], shard: jax.Array, axis_name: AxisName) -> jax.Array:
    """Reduce over the mesh axes, if there are any."""
    return shard if axis_name is None else reduction(shard, axis_name)


def axis_size(name: str | None) -> int:
    """The number of devices along a mesh axis; 1 where there is no such axis."""
    return 1 if name is None else int(lax.axis_size(name))


def with_neighbours(pooled: jax.Array, half: int, padding: str, axis_name: str) -> jax.Array:
    """Return this device's channels with `half` more on either side, from as many devices as hold them."""
    devices, own = axis_size(axis_name), pooled.shape[1]
    left: list[jax.Array] = []
    right: list[jax.Array] = []
    for hop in range(1, -(-half // own) + 1):
        width = min(own, half - (hop - 1) * own)
        left.insert(0, _from_neighbour(pooled[:, own - width :], hop, devices, padding, axis_name))
        right.append(_from_neighbour(pooled[:, :width], -hop, devices, padding, axis_name))
    return jnp.concatenate([*left, pooled, *right], 1)


def _from_neighbour(edge: jax.Array, hop: int, devices: int, padding: str, axis_name: str) -> jax.Array:
    """Return the edge of the device `hop` places before this one; zeros where no device is and padding is zeros."""
    pairs = [(i, i + hop) for i in range(devices)]
    if padding == "circular":
        pairs = [(i, j % devices) for i, j in pairs]
    # A device that nobody sends to receives zeros.
    pairs = [(i, j) for i, j in pairs if 0 <= j < devices]
    received: jax.Array = lax.ppermute(edge, axis_name, pairs)  # type: ignore[no-untyped-call]  # untyped in JAX
    return received
