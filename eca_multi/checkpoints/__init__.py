"""Checkpoint files of any framework: identify their network, read them to canonical weights, convert and write them.

The files here know no framework. What is special to the files of one framework stands in its own `checkpoints.py`,
which `read.py` and `write.py` import by name when a file needs it.
"""

from .convert import ConversionReport as ConversionReport
from .convert import convert as convert
from .errors import CheckpointError as CheckpointError
from .read import read_checkpoint as read_checkpoint
from .safetensors import load_file as load_file
from .safetensors import save_file as save_file

__all__ = ["CheckpointError", "ConversionReport", "convert", "load_file", "read_checkpoint", "save_file"]
