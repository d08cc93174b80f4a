"""Efficient Channel Attention for Flax nnx. Needs flax (which brings jax) and no other framework."""

from eca_multi._errors import not_installed

try:
    import flax as _flax  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError as error:
    if error.name != "flax":  # flax is there and something it needs is not: say that instead
        raise
    raise ImportError(not_installed("eca_multi.flax.nnx", "flax", "flax")) from error

from .layers import ECA as ECA
from .layers import ECAParam as ECAParam
from .surgery import base_state as base_state
from .surgery import eca_parameters as eca_parameters
from .surgery import eca_state as eca_state
from .surgery import freeze_except_eca as freeze_except_eca
from .surgery import infer_plan as infer_plan
from .surgery import insert_eca as insert_eca
from .surgery import installed_eca as installed_eca
from .surgery import load_base_state as load_base_state
from .surgery import load_eca_state as load_eca_state
from .surgery import plan_eca as plan_eca
from .surgery import remove_eca as remove_eca
from .weights import from_canonical as from_canonical
from .weights import to_canonical as to_canonical

__all__ = [
    "ECA",
    "ECAParam",
    "base_state",
    "eca_parameters",
    "eca_state",
    "freeze_except_eca",
    "from_canonical",
    "infer_plan",
    "insert_eca",
    "installed_eca",
    "load_base_state",
    "load_eca_state",
    "plan_eca",
    "remove_eca",
    "to_canonical",
]
