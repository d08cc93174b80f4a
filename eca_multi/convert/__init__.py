"""From one framework's files to another's. Nothing is ever unpickled."""

from .conversion import ConversionReport as ConversionReport
from .conversion import convert as convert
from .files import load_file as load_file
from .files import save_file as save_file

__all__ = ["ConversionReport", "convert", "load_file", "save_file"]
