"""What travels between the harness and a worker: a job to compute, and the tensors that come back.

Both sides import this file and nothing of each other. Float arrays travel as float32, which holds every float16 and
bfloat16 value exactly (float64 from the reference), in the specification's axis order; the dtype to compute in travels
as a name. The names of results: outputs and taps have their own, "dx" is the gradient of sum(cotangent * output) with
respect to x, "dx@ones" the same with every cotangent 1, "d_gate" that of a tap, and "new_mean" a state after the call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

ONES = "@ones"
AGAIN = "@again"
FIELDS = ("inputs", "weights", "state", "cotangents", "given", "batches")


@dataclass(frozen=True)
class Tensor:
    """A result: its values, and the name of the dtype that the framework gave it."""

    values: np.ndarray
    dtype: str


Outputs = dict[str, Tensor]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """One case in one dtype, as a worker gets it.

    `config` holds the specification's settings and the sizes of the axes. `axes` says, for each input and output whose
    axes have names, their order; `weight_axes` for each weight and state. `given` replaces taps in the reference.
    `batches` are inputs and cotangents of training, stacked along a first axis of steps.
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
    twice: bool = False  # run again on the same data, and return where the bits differ
    gradients: bool = True
    training: Mapping[str, Any] | None = None
    inputs: Arrays = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    cotangents: Arrays = field(default_factory=dict)
    given: Arrays = field(default_factory=dict)
    batches: Arrays = field(default_factory=dict)

    @property
    def parameters(self) -> str:
        """The dtype of the parameters."""
        return self.param_dtype or self.dtype

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a compiler specialises on: two jobs that agree here differ in their data alone."""
        arrays = [sorted((k, v.shape, str(v.dtype)) for k, v in getattr(self, f).items()) for f in FIELDS[:4]]
        return (self.dtype, self.param_dtype, repr(sorted(self.config.items())), repr(arrays), self.taps)

    def settings(self) -> dict[str, Any]:
        """The configuration that an adapter's `build` gets: the specification's, and the dtypes."""
        return {**self.config, "dtype": self.dtype, "param_dtype": self.parameters}


def pack_job(job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Split a job into what JSON holds and what a safetensors file holds."""
    arrays = {
        f"{name}/{key}": np.require(array, requirements="C")  # np.ascontiguousarray makes a scalar a vector
        for name in FIELDS
        for key, array in getattr(job, name).items()
    }
    empty: dict[str, Any] = {name: {} for name in FIELDS}
    plain = {key: value for key, value in asdict(replace(job, **empty)).items() if key not in FIELDS}
    return plain, arrays


def unpack_job(plain: Mapping[str, Any], arrays: Arrays) -> Job:
    """The way back."""
    grouped: dict[str, dict[str, np.ndarray]] = {name: {} for name in FIELDS}
    for key, array in arrays.items():
        name, _, rest = key.partition("/")
        grouped[name][rest] = array
    axes = {key: {n: tuple(a) for n, a in plain[key].items()} for key in ("axes", "weight_axes")}
    fixed = {**axes, "outputs": tuple(plain["outputs"]), "taps": tuple(plain["taps"])}
    return Job(**{**plain, **fixed, **grouped})


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def missing(expected: Iterable[str], received: Iterable[str]) -> list[str]:
    have = set(received)
    return [name for name in expected if name not in have]
