"""The adapter that the ones of the frameworks are built on."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from eca_multi.parity.jobs import Job, Outputs, Tensor


class Adapter(ABC):
    """Runs jobs in one framework.

    A subclass names the distributions whose versions the report shows, and the axis at which its framework has the
    channels, and computes one job in `run`.
    """

    distributions: tuple[str, ...] = ()
    native_axis = -1

    @abstractmethod
    def run(self, job: Job) -> Outputs:
        """Return y, dx and dw = gradients of sum(cotangent * y), channels first, dw canonical."""

    def run_all(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outputs | str]]:
        """Yield each job with its outputs, or with the text of what it raised."""
        for job in jobs:
            yield job, self.attempt(job)

    def attempt(self, job: Job) -> Outputs | str:
        try:
            return self.run(job)
        except Exception:  # whatever a framework raises is this job's result, and the next one still runs
            return traceback.format_exc(limit=-3)

    def axis(self, job: Job) -> int:
        return -self.native_axis if job.other_axis else self.native_axis

    def versions(self) -> dict[str, str]:
        return {name: _version(name) for name in self.distributions}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # installed under another name, as tensorflow-cpu is
        return str(getattr(import_module(name), "__version__", "unknown"))


def widen(array: np.ndarray) -> Tensor:
    """Take a NumPy array of any float dtype, ml_dtypes' bfloat16 too, to a result."""
    return Tensor(np.asarray(array).astype(np.float32), np.asarray(array).dtype.name)
