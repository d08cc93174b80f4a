"""Efficient Channel Attention for PyTorch. Needs torch and no other framework.

Write `from eca_multi.torch import ECA`; `from eca_multi import torch` would hide the real torch.
"""

from eca_multi._errors import not_installed

try:
    import torch as _torch  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError as error:
    if error.name != "torch":  # torch is there and something it needs is not: say that instead
        raise
    raise ImportError(not_installed("eca_multi.torch", "torch", "torch")) from error

from .functional import eca as eca
from .layers import ECA as ECA
from .layers import LazyECA as LazyECA
from .weights import from_canonical as from_canonical
from .weights import to_canonical as to_canonical

__all__ = ["ECA", "LazyECA", "eca", "from_canonical", "to_canonical"]
