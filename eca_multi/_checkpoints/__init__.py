"""Checkpoints that people have, taken to canonical weights; no framework is imported here."""

from .identify import CheckpointError as CheckpointError
from .identify import Identified as Identified
from .identify import identify as identify
from .names import canonical_names as canonical_names
from .report import Report as Report
from .report import compare as compare
from .safetensors_file import read_safetensors as read_safetensors
from .weights import Checkpoint as Checkpoint
from .weights import take as take
