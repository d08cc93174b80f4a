"""The cause of a failure, by name: faults of porters are tried on the reference, until the failing result matches."""

from .search import Cause as Cause
from .search import name_causes as name_causes
from .search import say_causes as say_causes

__all__ = ["Cause", "name_causes", "say_causes"]
