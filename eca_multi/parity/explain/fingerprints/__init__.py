"""A runner's numerics, measured: where it accumulates in half precision, what it flushes, leaks, rounds and repeats.

`torch`, `tensorflow`, `jax`, `numpy` and `keras` import their framework and have `probe()`, which returns a value for
each of `PROBES`: "n/a" where the framework has no such thing, "error: ..." where the measurement failed. The other
modules import no framework.
"""

from importlib import import_module
from typing import Any

from .facts import explain as explain
from .table import TABLE

__all__ = ["PROBES", "explain", "measure"]

PROBES: dict[str, str] = {probe.name: probe.meaning for probe in TABLE}


def measure(framework: str) -> dict[str, Any]:
    """Measure how a framework computes in this process: "torch", "jax", "keras" or "numpy"; "" has no probes."""
    return dict(import_module(f"{__name__}.{framework}").probe()) if framework else {}
