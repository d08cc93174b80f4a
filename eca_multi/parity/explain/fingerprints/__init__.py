"""A runner's numerics, measured: where it accumulates in half precision, what it flushes, leaks, rounds and repeats.

`torch`, `tensorflow`, `jax`, `numpy` and `keras` import their framework and name its operations in a class `Framework`.
The other modules import no framework.
"""

from importlib import import_module
from typing import Any

from .facts import explain as explain
from .table import TABLE, fingerprint

__all__ = ["PROBES", "explain", "measure"]

PROBES: dict[str, str] = {probe.name: probe.meaning for probe in TABLE}


def measure(framework: str) -> dict[str, Any]:
    """Measure how a framework computes in this process.

    Args:
        framework: "torch", "tensorflow", "jax", "numpy" or "keras", which is measured on its backend; "" has no probes.

    Returns:
        A value for each of `PROBES`: "n/a" where the framework has no such thing, "error: ..." where the measurement
        failed.
    """
    return fingerprint(import_module(f"{__name__}.{framework}").Framework()) if framework else {}
