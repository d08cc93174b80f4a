"""ECA in YOLO: a line in a model's YAML, or gates in a network that exists. Needs ultralytics, which has torch.

ultralytics is under AGPL-3.0; this package imports ultralytics and holds none of its code.
"""

from eca_multi._errors import NotInstalled, not_installed

try:
    import ultralytics as _ultralytics  # noqa: F401  (only to see whether it is installed)
except ModuleNotFoundError as error:
    if error.name != "ultralytics":  # ultralytics is installed and lacks something that it needs: raise that error
        raise
    raise NotInstalled(not_installed("eca_multi.ultralytics", "ultralytics", "ultralytics")) from error

from .insert import insert_eca as insert_eca
from .insert import plan_eca as plan_eca
from .insert import remove_eca as remove_eca
from .load import Loaded as Loaded
from .load import load_plain as load_plain
from .register import register as register
from .register import unregister as unregister

__all__ = ["Loaded", "insert_eca", "load_plain", "plan_eca", "register", "remove_eca", "unregister"]
