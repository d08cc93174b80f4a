"""An engine: loads weights, runs an adapter's layer, takes gradients, and gives results the specification's names."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import Rearrangement, SpecError, order, parse
from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.job import Job
from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.define.optimizers import NativeOptimizer
from eca_multi.parity.define.structures import leaves, parts
from eca_multi.parity.define.taps import Recorder, recording, tap
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Tensor

from .weight_map import map_of, native_weights

Result = Outputs | Exception
Native = dict[str, Any]


class Unsupported(Exception):
    """The framework cannot do a job; the text says why."""


@dataclass
class Computed:
    """The results of one evaluation, in native tensors and names."""

    outputs: Any
    weight_map: WeightMap = field(default_factory=WeightMap)
    state: Native = field(default_factory=dict)
    input_grads: dict[Cotangent, Native] = field(default_factory=dict)
    weight_grads: dict[Cotangent, Native] = field(default_factory=dict)
    taps: Native = field(default_factory=dict)
    tap_grads: Native = field(default_factory=dict)


class Engine(ABC):
    """Runs jobs with one adapter."""

    distributions: tuple[str, ...] = ()  # the packages whose versions a report shows
    probes = ""  # the module of explain.fingerprints that measures this framework
    optimizers = ""  # the module of this folder with the framework's own optimizers

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    @abstractmethod
    def compute(self, job: Job) -> Computed:
        """Run the layer forwards and backwards."""

    def to_numpy(self, tensor: Any) -> Tensor:
        """Copy a native tensor to NumPy: floats as float32, float64 as float64, with the name of the native dtype."""
        array = np.asarray(tensor)
        wide = array if array.dtype.kind in "biu" or array.dtype == np.float64 else array.astype(np.float32)
        return Tensor(wide, array.dtype.name)

    def save_and_load(self, job: Job) -> Native:
        """Save the job's weights in the framework's own format, and return those that a new layer loads."""
        raise Unsupported("a function keeps no weights")

    def optimizer(self, kind: str) -> NativeOptimizer:
        """Return the framework's own optimizer: "sgd", "momentum" or "adam"."""
        if not self.optimizers:
            raise Unsupported("the framework has no optimizers")
        native: NativeOptimizer = import_module(f"{__package__}.{self.optimizers}").optimizer(kind)
        return native

    def versions(self) -> dict[str, str]:
        return {name: _version(name) for name in self.distributions}

    def evaluate(self, job: Job) -> Outputs:
        results = self.collect(job, self.compute(job))
        if job.twice:
            again = self.collect(job, self.compute(job))
            results |= {replace(quantity, repeated=True): tensor for quantity, tensor in again.items()}
        return results

    def evaluate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Yield the number of each job with its outputs, or with its error."""
        for number, job in enumerate(jobs):
            yield number, attempt(self.evaluate, job)

    def roundtrip(self, job: Job) -> Outputs:
        """Return weights and states after saving and loading them in the framework's own file format."""
        native = self.save_and_load(job)
        canonical = self._canonical(map_of(self.adapter, job, native), native)
        return {Quantity(Kind.STORED, name): tensor for name, tensor in canonical.items()}

    @contextmanager
    def listening(self, recorder: Recorder | None) -> Iterator[None]:
        """Send the layer's taps to the recorder, if there is one."""
        if recorder is None:
            yield
        else:
            with recording(recorder), self.adapter.tapping():
                yield

    # --- names and axis orders

    def native_inputs(self, job: Job) -> dict[str, np.ndarray]:
        return {name: self.to_layout(job, name)(array) for name, array in job.inputs.items()}

    def native_cotangents(self, job: Job) -> dict[str, np.ndarray]:
        return {name: self.to_layout(job, name)(array) for name, array in job.cotangents.items()}

    def to_layout(self, job: Job, name: str) -> Callable[[np.ndarray], np.ndarray]:
        layout = self.adapter.layout_for(job.config)
        axes = job.axes.get(name)
        if layout is None or axes is None:
            return np.asarray
        return Rearrangement(axes, order(axes, parse(layout)))

    def named_outputs(self, job: Job, returned: Any) -> Native:
        """Give a layer's return values the names of the specification's outputs.

        The parts of a dict or dataclass have names of their own, "state.0" for the first part of "state". The parts of
        a tuple, however it is nested, come in the order of the specification's outputs.
        """
        named = {path.replace("/", "."): value for path, value in leaves("y", returned).items()}
        has_names = parts(returned) is not None and not isinstance(returned, (tuple, list))
        if not job.outputs or (has_names and not set(named).isdisjoint(job.outputs)):
            return named
        if has_names or len(named) != len(job.outputs):
            values = ", ".join(named) if has_names else f"{len(named)} values"
            raise SpecError(
                f"{type(self.adapter).__name__} must return {', '.join(job.outputs)}. Received: {values or 'none'}. "
                "Name the outputs of the specification so, or choose among them in the adapter's call."
            )
        return dict(zip(job.outputs, named.values(), strict=True))

    def check_loaded(self, job: Job, weight_map: WeightMap, native: Mapping[str, Any]) -> None:
        """Read the weights back, and refuse a layer that holds other values than the job's."""
        for name, expected in native_weights(job, weight_map).items():
            held = self.to_numpy(native[name])
            if name in weight_map.inexact:  # a sum or a constant, which the layer's dtype rounds
                expected = expected.astype(DTYPES.get(held.dtype, held.dtype)).astype(held.values.dtype)
            if not np.array_equal(held.values, expected, equal_nan=True):
                raise SpecError(
                    f"{name!r} of {type(self.adapter).__name__} must hold {weight_map.held(name)!r} bit for bit after "
                    "loading. It does not: the layer changes it."
                )

    # --- results

    def collect(self, job: Job, computed: Computed) -> Outputs:
        """Give native results the specification's names and axis orders."""
        named, weight_map = self.named_outputs(job, computed.outputs), computed.weight_map
        outputs = [Quantity(Kind.OUTPUT, n) for n in job.outputs] + [Quantity(Kind.STATE, n) for n in job.state]
        results = {q: self._ordered(job, q.label, named[q.label]) for q in outputs if q.label in named}
        for name, tensor in self._canonical(weight_map, computed.state).items():
            results.setdefault(Quantity(Kind.STATE, name), tensor)  # a state that the layer returned comes first
        taps = {**named, **computed.taps}
        results |= {Quantity(Kind.TAP, n): self._ordered(job, n, taps[n]) for n in job.taps if n in taps}
        results |= {Quantity(Kind.TAP_GRADIENT, n): self._ordered(job, n, t) for n, t in computed.tap_grads.items()}
        for cotangent, grads in computed.input_grads.items():
            for name, tensor in grads.items():
                results[Quantity(Kind.INPUT_GRADIENT, name, cotangent)] = self._ordered(job, name, tensor)
        for cotangent, grads in computed.weight_grads.items():
            for name, tensor in self._canonical(weight_map, grads, gradients=True).items():
                results[Quantity(Kind.WEIGHT_GRADIENT, name, cotangent)] = tensor
        return results

    def _ordered(self, job: Job, name: str, tensor: Any) -> Tensor:
        result = self.to_numpy(tensor)
        if name in job.axes and result.values.ndim != len(job.axes[name]):
            return result  # judged as a SHAPE_MISMATCH
        to_layout = self.to_layout(job, name)
        back = to_layout.inverse if isinstance(to_layout, Rearrangement) else np.asarray
        return Tensor(back(result.values), result.dtype)

    def _canonical(self, weight_map: WeightMap, native: Native, gradients: bool = False) -> dict[str, Tensor]:
        """Give native arrays the specification's names and axis orders."""
        read = {name: self.to_numpy(tensor) for name, tensor in native.items()}
        arrays = weight_map.to_canonical({name: tensor.values for name, tensor in read.items()}, gradients=gradients)
        dtypes = {name: sorted({read[n].dtype for n in weight_map.holding([name]) if n in read}) for name in arrays}
        return {name: Tensor(array, " and ".join(dtypes[name])) for name, array in arrays.items()}


def attempt(evaluate: Callable[[Job], Outputs], job: Job) -> Result:
    """Return a job's outputs, or the error that `evaluate` raises, so that the next job still runs."""
    try:
        return evaluate(job)
    except Exception as error:
        return error


def no_sublayer(adapter: Adapter, path: str, have: Iterable[str]) -> SpecError:
    """Return the error for a tap on a sub-layer that the layer does not have."""
    return SpecError(
        f"the taps of {type(adapter).__name__} name the sub-layer {path!r}, which the layer does not have: "
        f"{', '.join(filter(None, have)) or 'none'}."
    )


def tap_output(name: str, output: Any) -> Any:
    """Tap the output of a sub-layer, or the first of several: a recurrent layer returns its sequence first."""
    if type(output) in (tuple, list):
        return type(output)((tap_output(name, output[0]), *output[1:]))
    return tap(name, output)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # installed under another name, as tensorflow-cpu is
        return str(getattr(import_module(name), "__version__", "unknown"))
