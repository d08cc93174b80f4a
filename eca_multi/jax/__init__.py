"""Efficient Channel Attention for JAX, as functions. Needs jax and neither Flax nor another framework.

Write `from eca_multi.jax import eca`; `from eca_multi import jax` would hide the real jax.
"""

from eca_multi._errors import NotInstalled, not_installed

try:
    import jax as _jax  # noqa: F401  (only to see whether it is installed)
except ModuleNotFoundError as error:
    if error.name != "jax":  # jax is installed and lacks something that it needs: raise that error
        raise
    raise NotInstalled(not_installed("eca_multi.jax", "jax", "jax")) from error

from .functional import eca as eca
from .step import ECAState as ECAState
from .step import eca_step as eca_step

__all__ = ["ECAState", "eca", "eca_step"]
