"""Efficient Channel Attention for Keras 3, on any of its backends. Needs keras and the backend that it is set to.

Write `from eca_multi.keras import ECA`; `from eca_multi import keras` would hide the real keras.
"""

from eca_multi._errors import NotInstalled, not_installed

try:
    import keras as _keras  # noqa: F401  (only to see whether it is installed)
except ModuleNotFoundError as error:
    if error.name != "keras":  # keras is installed and lacks something that it needs: raise that error
        raise
    raise NotInstalled(not_installed("eca_multi.keras", "keras", "keras")) from error

from .functional import eca as eca
from .gates import GateRecorder as GateRecorder
from .gates import prune_plan as prune_plan
from .gates import record_gates as record_gates
from .layers import ECA as ECA
from .networks import eca_mobilenet_v2 as eca_mobilenet_v2
from .networks import eca_resnet18 as eca_resnet18
from .networks import eca_resnet34 as eca_resnet34
from .networks import eca_resnet50 as eca_resnet50
from .networks import eca_resnet101 as eca_resnet101
from .networks import eca_resnet152 as eca_resnet152
from .networks import ecaresnet26t as ecaresnet26t
from .networks import ecaresnet50d as ecaresnet50d
from .networks import ecaresnet50d_pruned as ecaresnet50d_pruned
from .networks import ecaresnet50t as ecaresnet50t
from .networks import ecaresnet101d as ecaresnet101d
from .networks import ecaresnet101d_pruned as ecaresnet101d_pruned
from .networks import ecaresnet200d as ecaresnet200d
from .networks import ecaresnet269d as ecaresnet269d
from .networks import ecaresnetlight as ecaresnetlight
from .networks import ecaresnext26t_32x4d as ecaresnext26t_32x4d
from .networks import ecaresnext50t_32x4d as ecaresnext50t_32x4d
from .pretrained import from_pretrained as from_pretrained
from .step import ECAState as ECAState
from .step import eca_step as eca_step
from .surgery.infer import infer_plan as infer_plan
from .surgery.infer import installed_eca as installed_eca
from .surgery.insert import insert_eca as insert_eca
from .surgery.plan import plan_eca as plan_eca
from .surgery.remove import remove_eca as remove_eca
from .surgery.states import base_state as base_state
from .surgery.states import eca_parameters as eca_parameters
from .surgery.states import eca_state as eca_state
from .surgery.states import freeze_except_eca as freeze_except_eca
from .surgery.states import load_base_state as load_base_state
from .surgery.states import load_eca_state as load_eca_state
from .weights import from_canonical as from_canonical
from .weights import to_canonical as to_canonical

__all__ = [
    "ECA", "ECAState", "GateRecorder", "base_state", "eca", "eca_mobilenet_v2", "eca_parameters", "eca_resnet18",
    "eca_resnet34", "eca_resnet50", "eca_resnet101", "eca_resnet152", "eca_state", "eca_step", "ecaresnet26t",
    "ecaresnet50d", "ecaresnet50d_pruned", "ecaresnet50t", "ecaresnet101d", "ecaresnet101d_pruned", "ecaresnet200d",
    "ecaresnet269d", "ecaresnetlight", "ecaresnext26t_32x4d", "ecaresnext50t_32x4d", "freeze_except_eca",
    "from_canonical", "from_pretrained", "infer_plan", "insert_eca", "installed_eca", "load_base_state",
    "load_eca_state", "plan_eca", "prune_plan", "record_gates", "remove_eca", "to_canonical",
]  # fmt: skip
