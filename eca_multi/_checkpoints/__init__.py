"""Checkpoints that people have, taken to canonical weights; no framework is imported here."""

from .detect import detect as detect
from .hub import Hub as Hub
from .identify import CheckpointError as CheckpointError
from .identify import Identified as Identified
from .identify import identify as identify
from .names import canonical_names as canonical_names
from .orbax_folder import ORBAX as ORBAX
from .pretrained import Pretrained as Pretrained
from .pretrained import find_pretrained as find_pretrained
from .reading import MODULES as MODULES
from .reading import read_checkpoint as read_checkpoint
from .reading import read_kind as read_kind
from .report import Report as Report
from .report import compare as compare
from .safetensors_file import read_safetensors as read_safetensors
from .safetensors_file import write_safetensors as write_safetensors
from .weights import Checkpoint as Checkpoint
from .weights import check_metadata as check_metadata
from .weights import release as release
from .weights import take as take
