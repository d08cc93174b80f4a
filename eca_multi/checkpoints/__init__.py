"""Checkpoints that people have, taken to canonical weights; no framework is imported here."""

from .archive import open_archive as open_archive
from .archive import place_of as place_of
from .conversion import ConversionReport as ConversionReport
from .conversion import convert as convert
from .detect import detect as detect
from .files import load_file as load_file
from .files import save_file as save_file
from .hub import Hub as Hub
from .identify import CheckpointError as CheckpointError
from .identify import Identified as Identified
from .identify import identify as identify
from .names import canonical_names as canonical_names
from .orbax_folder import ORBAX as ORBAX
from .pretrained import Pretrained as Pretrained
from .pretrained import find_pretrained as find_pretrained
from .reading import MODULES as MODULES
from .reading import open_kind as open_kind
from .reading import read_checkpoint as read_checkpoint
from .reading import read_kind as read_kind
from .report import Report as Report
from .report import compare as compare
from .safetensors_file import list_safetensors as list_safetensors
from .safetensors_file import read_safetensors as read_safetensors
from .safetensors_file import write_safetensors as write_safetensors
from .source import Source as Source
from .source import Stored as Stored
from .source import Stream as Stream
from .source import check_total as check_total
from .source import open_source as open_source
from .weights import Checkpoint as Checkpoint
from .weights import check_metadata as check_metadata
from .weights import choose as choose
from .weights import release as release
from .weights import take as take

__all__ = ["CheckpointError", "ConversionReport", "convert", "load_file", "read_checkpoint", "save_file"]
