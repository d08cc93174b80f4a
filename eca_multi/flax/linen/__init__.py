"""Efficient Channel Attention for Flax linen. Needs flax (which brings jax) and no other framework."""

from eca_multi._errors import not_installed

try:
    import flax as _flax  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError as error:
    if error.name != "flax":  # flax is there and something it needs is not: say that instead
        raise
    raise ImportError(not_installed("eca_multi.flax.linen", "flax", "flax")) from error

from .layers import ECA as ECA
from .weights import from_canonical as from_canonical
from .weights import to_canonical as to_canonical

__all__ = ["ECA", "from_canonical", "to_canonical"]
