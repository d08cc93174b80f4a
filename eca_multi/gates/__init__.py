"""What ECA does on data: the recorded gates of a network, their file, their pictures, and which ECAs do nothing.

A framework's `record_gates` fills a record; this room reads no network and imports no framework.
"""

from .errors import GatesFileError as GatesFileError
from .facts import to_json as to_json
from .html import to_html as to_html
from .layer import LayerGates as LayerGates
from .moments import Moments as Moments
from .plot import plot_gates as plot_gates
from .prune import PrunePlan as PrunePlan
from .read import load_gates as load_gates
from .record import GateRecord as GateRecord

__all__ = [
    "GateRecord",
    "GatesFileError",
    "LayerGates",
    "Moments",
    "PrunePlan",
    "load_gates",
    "plot_gates",
    "to_html",
    "to_json",
]
