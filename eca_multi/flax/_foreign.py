"""Networks of other JAX libraries, which the surgery of linen and of nnx does not take."""

from typing import Any

LIBRARIES = {"equinox": "Equinox", "haiku": "Haiku"}


def remedy_for(network: Any) -> str:
    """Return what to do with a network of another library, or a function that JAX transformed; "" for all others."""
    kinds = network.__mro__ if isinstance(network, type) else type(network).__mro__
    library = next((LIBRARIES[root] for kind in kinds if (root := kind.__module__.split(".")[0]) in LIBRARIES), "")
    if not library and callable(network) and hasattr(network, "__wrapped__"):
        return "Pass the module itself, before jax.jit, jax.pmap or another transformation, and transform the result."
    if not library:
        return ""
    return (
        f"Surgery takes no {library} networks: call eca_multi.jax.eca in the network's own code "
        "(docs/jax-libraries.md shows how)."
    )
