"""From one framework's files to another's. Nothing is ever unpickled."""

from eca_multi._checkpoints import CheckpointError as CheckpointError
from eca_multi._checkpoints import read_checkpoint as read_checkpoint

from .conversion import ConversionReport as ConversionReport
from .conversion import convert as convert
from .files import load_file as load_file
from .files import save_file as save_file

__all__ = ["CheckpointError", "ConversionReport", "convert", "load_file", "read_checkpoint", "save_file"]
