"""Efficient Channel Attention for Keras 3, on any of its backends. Needs keras and the backend that it is set to.

Write `from eca_multi.keras import ECA`; `from eca_multi import keras` would hide the real keras.
"""

from eca_multi._errors import not_installed

try:
    import keras as _keras  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError as error:
    if error.name != "keras":  # keras is there and something it needs is not: say that instead
        raise
    raise ImportError(not_installed("eca_multi.keras", "keras", "keras")) from error

from .functional import eca as eca
from .layers import ECA as ECA
from .weights import from_canonical as from_canonical
from .weights import to_canonical as to_canonical

__all__ = ["ECA", "eca", "from_canonical", "to_canonical"]
