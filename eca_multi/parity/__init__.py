"""The parity harness: the same weights, inputs and cotangents to every implementation, judged against a float64 oracle.

Example:
    >>> from eca_multi import parity
    >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
    >>> report.raise_for_status()
"""

from importlib.util import find_spec as _find_spec

from eca_multi._errors import not_installed

# Some of them are imported only when a case needs them; say at once what is missing.
if _missing := [name for name in ("ml_dtypes", "scipy", "sklearn", "PIL") if _find_spec(name) is None]:
    raise ImportError(not_installed("eca_multi.parity", _missing[0], "parity"))

from .adapters.base import Adapter as Adapter
from .cases import CASES as CASES
from .cases import Case as Case
from .compare import Verdict as Verdict
from .jobs import Job as Job
from .jobs import Tensor as Tensor
from .report import ParityError as ParityError
from .report import Report as Report
from .run import run as run
from .runners import RUNNERS as RUNNERS
from .runners import Runner as Runner
from .runners import UsageError as UsageError

__all__ = [
    "CASES",
    "RUNNERS",
    "Adapter",
    "Case",
    "Job",
    "ParityError",
    "Report",
    "Runner",
    "Tensor",
    "UsageError",
    "Verdict",
    "run",
]
