"""ECA into, and out of, linen networks that exist."""

from .infer import infer_plan as infer_plan
from .infer import installed_eca as installed_eca
from .insert import insert_eca as insert_eca
from .plan import plan_eca as plan_eca
from .remove import remove_eca as remove_eca
from .states import base_state as base_state
from .states import eca_parameters as eca_parameters
from .states import eca_state as eca_state
from .states import freeze_except_eca as freeze_except_eca
from .states import load_base_state as load_base_state
from .states import load_eca_state as load_eca_state
