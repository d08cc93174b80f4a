"""The parity harness: the same weights, inputs and cotangents to every implementation, judged against a float64 oracle.

Example:
    >>> from eca_multi import parity
    >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
    >>> report.raise_for_status()
"""

import os as _os
from importlib.util import find_spec as _find_spec

from eca_multi._errors import NotInstalled, not_installed

# A case may import some of these packages late, so a missing one is reported at once. A worker draws no data: the
# interpreter of another environment needs ml_dtypes and einops alone.
if _missing := [
    name
    for name in (
        *("ml_dtypes", "einops"),
        *(() if "ECA_MULTI_PARITY_WORKER" in _os.environ else ("scipy", "sklearn", "PIL")),
    )
    if _find_spec(name) is None
]:
    raise NotInstalled(not_installed("eca_multi.parity", _missing[0], "parity"))

from .define.adapters import Adapter as Adapter
from .define.adapters import JaxAdapter as JaxAdapter
from .define.adapters import KerasAdapter as KerasAdapter
from .define.adapters import LinenAdapter as LinenAdapter
from .define.adapters import NnxAdapter as NnxAdapter
from .define.adapters import NumpyAdapter as NumpyAdapter
from .define.adapters import TorchAdapter as TorchAdapter
from .define.axes import SpecError as SpecError
from .define.checks import CHECKS as CHECKS
from .define.map_patterns import prefixed as prefixed
from .define.runners import Runner as Runner
from .define.runners import UsageError as UsageError
from .define.sources import Draw as Draw
from .define.sources import booleans as booleans
from .define.sources import integers as integers
from .define.sources import normal as normal
from .define.sources import uniform as uniform
from .define.spec import Case as Case
from .define.spec import Manual as Manual
from .define.spec import Spec as Spec
from .define.spec import Training as Training
from .define.taps import tap as tap
from .judge.compare import Verdict as Verdict
from .match import assert_close as assert_close
from .match import assert_match as assert_match
from .offline import compare as compare
from .offline import replay as replay
from .port import assert_ported as assert_ported
from .port_weights import port_weights as port_weights
from .propose import propose_map as propose_map
from .report.report import ParityError as ParityError
from .report.report import Report as Report
from .run import fingerprints as fingerprints
from .run import run as run

__all__ = [
    "CHECKS",
    "Adapter",
    "Case",
    "Draw",
    "JaxAdapter",
    "KerasAdapter",
    "LinenAdapter",
    "Manual",
    "NnxAdapter",
    "NumpyAdapter",
    "ParityError",
    "Report",
    "Runner",
    "Spec",
    "SpecError",
    "TorchAdapter",
    "Training",
    "UsageError",
    "Verdict",
    "assert_close",
    "assert_match",
    "assert_ported",
    "booleans",
    "compare",
    "fingerprints",
    "integers",
    "normal",
    "port_weights",
    "prefixed",
    "propose_map",
    "replay",
    "run",
    "tap",
    "uniform",
]
