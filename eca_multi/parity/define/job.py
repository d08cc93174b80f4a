"""A job: one case in one dtype, which travels to a worker and its engine.

Float arrays travel in the specification's axis order as float32, which holds every float16 and bfloat16 value exactly.
The dtype to compute in travels as a name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from .tensor import Cotangent, Kind, Quantity, T, parse

FIELDS = ("inputs", "weights", "state", "cotangents", "given", "batches")

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """One case in one dtype.

    `config` holds the specification's settings and the sizes of the axes. `axes` gives the order of the axes of each
    input, output and tap whose axes have names; `weight_axes` that of each weight and state. The arrays of `given`
    replace taps and their gradients in the reference, and start each step of training; those of other results are what
    a runner found. `batches` are the inputs of training, stacked along a first axis of steps.
    """

    case: str
    dtype: str
    config: Mapping[str, Any]
    axes: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    weight_axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    param_dtype: str = ""
    compiled: bool = False
    twice: bool = False  # run a second time on the same data
    gradients: bool = True
    training: Mapping[str, Any] | None = None
    inputs: Arrays = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    cotangents: Arrays = field(default_factory=dict)
    given: Mapping[Quantity, np.ndarray] = field(default_factory=dict)
    batches: Arrays = field(default_factory=dict)

    @property
    def parameters(self) -> str:
        """The dtype of the parameters."""
        return self.param_dtype or self.dtype

    @property
    def structure(self) -> tuple[Any, ...]:
        """All that a compiler specialises on: two jobs with the same structure differ in their data alone."""
        arrays = [sorted((k, v.shape, str(v.dtype)) for k, v in getattr(self, f).items()) for f in FIELDS[:4]]
        return (self.dtype, self.param_dtype, repr(sorted(self.config.items())), repr(arrays), self.taps)

    def settings(self) -> dict[str, Any]:
        """Return the configuration for an adapter's `build`: the specification's, and the dtypes."""
        return {**self.config, "dtype": self.dtype, "param_dtype": self.parameters}


def results_of(job: Job) -> Iterator[Quantity]:
    """Yield every quantity that an evaluation of a job may return."""
    for kind, names in ((Kind.OUTPUT, job.outputs), (Kind.TAP, job.taps), (Kind.STATE, job.state)):
        yield from (Quantity(kind, name) for name in names)
    for cotangent in Cotangent:
        yield from (Quantity(Kind.INPUT_GRADIENT, name, cotangent) for name in float_inputs(job))
        yield from (Quantity(Kind.WEIGHT_GRADIENT, name, cotangent) for name in job.weights)
    yield from (Quantity(Kind.TAP_GRADIENT, name) for name in job.taps)


def identified(named: Mapping[str, T], job: Job) -> dict[Quantity, T]:
    """Key an adapter's results by quantity instead of label, and drop a label that is none of the job's results."""
    quantities = {quantity.label: quantity for quantity in results_of(job)}
    return {quantities[label]: result for label, result in named.items() if label in quantities}


def float_inputs(job: Job) -> list[str]:
    """Name the inputs that have gradients."""
    return [name for name, array in job.inputs.items() if is_float(array)]


def pack_job(job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Split a job into values for JSON and arrays for a safetensors file."""
    arrays = {
        f"{name}/{key.key if isinstance(key, Quantity) else key}": array
        for name in FIELDS
        for key, array in getattr(job, name).items()
    }
    empty: dict[str, Any] = {name: {} for name in FIELDS}
    plain = {key: value for key, value in asdict(replace(job, **empty)).items() if key not in FIELDS}
    return plain, arrays


def unpack_job(plain: Mapping[str, Any], arrays: Arrays = MappingProxyType({})) -> Job:
    """Join the two parts that `pack_job` returns."""
    axes = {key: {n: tuple(a) for n, a in plain[key].items()} for key in ("axes", "weight_axes")}
    fixed = {**axes, "outputs": tuple(plain["outputs"]), "taps": tuple(plain["taps"])}
    return with_arrays(Job(**{**plain, **fixed}), arrays)


def with_arrays(job: Job, arrays: Arrays) -> Job:
    """Give a job the arrays of its file."""
    groups: dict[str, Any] = {name: {} for name in FIELDS}
    for key, array in arrays.items():
        name, _, rest = key.partition("/")
        groups[name][parse(rest) if name == "given" else rest] = array
    return replace(job, **groups)


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"
