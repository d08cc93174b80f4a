"""The parity harness: the same weights, inputs and cotangents to every implementation, judged against a float64 oracle.

Example:
    >>> from eca_multi import parity
    >>> report = parity.run(runners=["torch"], dtypes=["float32"], cases=["offsets"])
    >>> report.raise_for_status()
"""

from eca_multi._errors import missing_framework

try:
    import ml_dtypes as _ml_dtypes  # noqa: F401  (only to see whether it is there)
except ModuleNotFoundError as error:
    if error.name != "ml_dtypes":
        raise
    raise ImportError(missing_framework("eca_multi.parity", "parity")) from error

from .cases import CASES as CASES
from .cases import Case as Case
from .compare import Verdict as Verdict
from .report import ParityError as ParityError
from .report import Report as Report
from .run import run as run
from .runners import RUNNERS as RUNNERS
from .runners import Runner as Runner

__all__ = ["CASES", "RUNNERS", "Case", "ParityError", "Report", "Runner", "Verdict", "run"]
