"""What ECA does on data: the recorded gates of a network, their file, their pictures, and which ECAs do nothing.

A framework's `record_gates` fills a record; this room reads no network and imports no framework.
"""

from .errors import GatesFileError as GatesFileError
from .layer import LayerGates as LayerGates
from .moments import Moments as Moments
from .prune import PrunePlan as PrunePlan
from .read import load_gates as load_gates
from .record import GateRecord as GateRecord

__all__ = ["GateRecord", "GatesFileError", "LayerGates", "Moments", "PrunePlan", "load_gates"]
