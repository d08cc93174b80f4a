"""The engine for NumPy functions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.job import Job, is_float
from eca_multi.parity.define.tensor import Cotangent, Kind, Quantity

from .base import Computed, Engine, Native, Unsupported
from .weight_map import map_of, native_weights


class NumpyEngine(Engine):
    distributions = ("numpy",)
    probes = "numpy"
    _wrap: Callable[[np.ndarray], np.ndarray] = staticmethod(np.asarray)

    def compute(self, job: Job) -> Computed:
        if job.compiled:
            raise Unsupported("NumPy compiles nothing")
        if job.dtype == "bfloat16":  # ml_dtypes' sums are 170 ULP off, and half of its functions return float32
            raise Unsupported("NumPy has no bfloat16 of its own")
        weight_map = map_of(self.adapter, job)
        native = native_weights(job, weight_map)
        dtype, parameters = (DTYPES.get(name, np.dtype(np.float64)) for name in (job.dtype, job.parameters))
        wrap = self._wrap
        weights = {n: wrap(a.astype(parameters)) if is_float(a) else a.copy() for n, a in native.items()}
        inputs = {n: wrap(a.astype(dtype)) if is_float(a) else a.copy() for n, a in self.native_inputs(job).items()}
        settings = job.settings()
        done = Computed(self.adapter.build(settings)(inputs, weights), weight_map)
        differentiate = getattr(self.adapter, "gradients", None)
        if job.gradients and differentiate is not None:
            named = self.named_outputs(job, done.outputs)
            drawn = {n: a.astype(dtype) for n, a in self.native_cotangents(job).items()}
            ones = {n: np.ones_like(named[n]) for n in drawn}
            for cotangent, arrays in ((Cotangent.DRAWN, drawn), (Cotangent.ONES, ones)):
                grads = differentiate(inputs, weights, arrays, settings)
                done.input_grads[cotangent] = _named(Kind.INPUT_GRADIENT, inputs, grads)
                done.weight_grads[cotangent] = _named(Kind.WEIGHT_GRADIENT, weights, grads)
        return done


def _named(kind: Kind, names: Iterable[str], grads: Mapping[str, Any]) -> Native:
    """Return by name the gradients that an adapter returned by label: "dx" for x."""
    labels = {name: Quantity(kind, name).label for name in names}
    return {name: grads[label] for name, label in labels.items() if label in grads}
