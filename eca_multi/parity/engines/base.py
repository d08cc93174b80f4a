"""What the engines share: names, axis orders, the weight map, and the checks that nothing is left over."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import Rearrangement, SpecError, order, parse
from eca_multi.parity.define.job import Job, missing
from eca_multi.parity.define.optimizers import NativeOptimizer
from eca_multi.parity.define.taps import Recorder, recording, tap
from eca_multi.parity.define.tensor import Cotangent, Kind, Outputs, Quantity, Tensor

Result = Outputs | Exception
Native = dict[str, Any]


class Unsupported(Exception):
    """The framework cannot do what was asked; the text says why."""


@dataclass(frozen=True)
class Slot:
    """Where a native parameter or buffer lies in the specification."""

    name: str
    rearrange: Rearrangement | None  # canonical to native; None keeps the order

    def to_native(self, array: np.ndarray) -> np.ndarray:
        return array if self.rearrange is None else self.rearrange(array)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        return array if self.rearrange is None else self.rearrange.inverse(array)


@dataclass
class Computed:
    """The results of one evaluation, in native tensors and names."""

    outputs: Any
    slots: Mapping[str, Slot] = field(default_factory=dict)
    state: Native = field(default_factory=dict)
    input_grads: dict[Cotangent, Native] = field(default_factory=dict)
    weight_grads: dict[Cotangent, Native] = field(default_factory=dict)
    taps: Native = field(default_factory=dict)
    tap_grads: Native = field(default_factory=dict)


class Engine(ABC):
    """Runs jobs with one adapter.

    Attributes:
        distributions: The packages whose versions are reported.
        probes: The module of explain.fingerprints that measures this framework.
        optimizers: The module beside this one that has the framework's own optimizers.
    """

    distributions: tuple[str, ...] = ()
    probes = ""
    optimizers = ""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    @abstractmethod
    def compute(self, job: Job) -> Computed:
        """Run the layer forwards and backwards."""

    @abstractmethod
    def to_numpy(self, tensor: Any) -> Tensor:
        """Take a native tensor to the host: float dtypes as float32 (float64 as itself), with the dtype's name."""

    @abstractmethod
    def save_and_load(self, job: Job) -> Native:
        """Load the job's weights, save them in the framework's own format, load that into a new layer; return its."""

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
        """Yield the number of each job with its outputs, or with what it raised."""
        for number, job in enumerate(jobs):
            yield number, attempt(lambda job=job: self.evaluate(job))  # type: ignore[misc]

    def roundtrip(self, job: Job) -> Outputs:
        """Return weights and state after the way through the framework's own file format."""
        native = self.save_and_load(job)
        slots = self.slots(job, native)
        return {
            Quantity(Kind.STORED, slots[n].name): self._canonical(slots[n], tensor)
            for n, tensor in native.items()
            if n in slots
        }

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

    def from_layout(self, job: Job, name: str) -> Callable[[np.ndarray], np.ndarray]:
        to = self.to_layout(job, name)
        return to.inverse if isinstance(to, Rearrangement) else np.asarray

    def named_outputs(self, job: Job, returned: Any) -> Native:
        """Give what a layer returned the names of the specification's outputs."""
        if isinstance(returned, Mapping):
            return dict(returned)
        values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
        if not job.outputs:  # a function, whose outputs nobody has named
            return {"y" if len(values) == 1 else f"y{number}": value for number, value in enumerate(values)}
        if len(values) != len(job.outputs):
            raise SpecError(
                f"{type(self.adapter).__name__} must return {', '.join(job.outputs)}. Received: {len(values)} values."
            )
        return dict(zip(job.outputs, values, strict=True))

    def function_weights(self, job: Job) -> dict[str, np.ndarray]:
        """The weights of a function, which has no names and shapes of its own: those that the map gives."""
        declared = self.adapter.weights_for(job.config)
        names = {**job.weights, **job.state} if declared is None else declared
        return self.native_weights(job, self.match(job, names))

    def slots(self, job: Job, native: Mapping[str, Any]) -> dict[str, Slot]:
        """Match the layer's parameters and buffers with the specification's weights and states, shapes too.

        Raises:
            SpecError: If one is left over on either side, or a shape does not fit.
        """
        slots = self.match(job, native)
        canonical = {**job.weights, **job.state}
        for name, slot in slots.items():
            shape = slot.to_native(np.asarray(canonical[slot.name])).shape
            if tuple(native[name].shape) != shape:
                raise SpecError(
                    f"{name!r} of {type(self.adapter).__name__} must have the shape that the map gives, {shape}. "
                    f"Received: {tuple(native[name].shape)}. Correct the map or the axes of {slot.name!r}."
                )
        return slots

    def match(self, job: Job, native: Iterable[str]) -> dict[str, Slot]:
        """Match native names with the specification's, each exactly once."""
        who = type(self.adapter).__name__
        canonical = {**job.weights, **job.state}
        declared = self.adapter.weights_for(job.config)
        entries = {name: name for name in canonical} if declared is None else dict(declared)
        if unknown := missing(entries, native):
            have = ", ".join(native) or "none"
            raise SpecError(f"the weight map of {who} names {unknown[0]!r}, which the layer does not have: {have}.")
        if left := missing(native, entries):
            raise SpecError(
                f"the weight map of {who} must name every parameter and buffer. Received: no {left[0]!r}. "
                "Map it to a weight or state of the specification, or to None to leave it out."
            )
        slots = {n: _slot(entry, n, who) for n, entry in entries.items() if entry is not None}
        used = [slot.name for slot in slots.values()]
        if wrong := missing(used, canonical):
            raise SpecError(f"the weight map of {who} must lead to {', '.join(canonical)}. Received: {wrong[0]!r}.")
        if left := missing(canonical, used):
            raise SpecError(f"the weight map of {who} must use every weight and state. Received: none to {left[0]!r}.")
        for name in used:
            if used.count(name) > 1:
                raise SpecError(f"the weight map of {who} must use {name!r} once. Received: {used.count(name)} times.")
        return slots

    def native_weights(self, job: Job, slots: Mapping[str, Slot]) -> dict[str, np.ndarray]:
        canonical = {**job.weights, **job.state}
        return {name: slot.to_native(canonical[slot.name]) for name, slot in slots.items()}

    def check_loaded(self, job: Job, slots: Mapping[str, Slot], native: Mapping[str, Any]) -> None:
        """Read the weights back: what a layer does not take exactly would be compared as if it had."""
        canonical = {**job.weights, **job.state}
        for name, slot in slots.items():
            back = slot.to_canonical(self.to_numpy(native[name]).values)
            if not np.array_equal(back, canonical[slot.name], equal_nan=True):
                raise SpecError(
                    f"{name!r} of {type(self.adapter).__name__} must hold {slot.name!r} bit for bit after loading. "
                    "It does not: the layer changes it."
                )

    def check_trained(self, job: Job, slots: Mapping[str, Slot], trained: Collection[str]) -> None:
        """Refuse a weight that the layer does not train: it has no gradient to compare."""
        for name, slot in slots.items():
            if job.gradients and slot.name in job.weights and name not in trained:
                raise SpecError(
                    f"{name!r} of {type(self.adapter).__name__} must be trained to be the weight {slot.name!r}. "
                    f"Received: a buffer, or a parameter that is frozen. Make {slot.name!r} a state of the "
                    "specification, or train it."
                )

    # --- results

    def collect(self, job: Job, computed: Computed) -> Outputs:
        """Give native results the specification's names and axis orders."""
        named, slots = self.named_outputs(job, computed.outputs), computed.slots
        results = {Quantity(Kind.STATE, slots[n].name): self._canonical(slots[n], t) for n, t in computed.state.items()}
        # A function returns its states among its outputs; they count rather than what the layer holds.
        outputs = [Quantity(Kind.OUTPUT, n) for n in job.outputs] + [Quantity(Kind.STATE, n) for n in job.state]
        results |= {q: self._ordered(job, q.label, named[q.label]) for q in outputs if q.label in named}
        taps = {**named, **computed.taps}
        results |= {Quantity(Kind.TAP, n): self._ordered(job, n, taps[n]) for n in job.taps if n in taps}
        results |= {Quantity(Kind.TAP_GRADIENT, n): self._ordered(job, n, t) for n, t in computed.tap_grads.items()}
        for cotangent, grads in computed.input_grads.items():
            for name, tensor in grads.items():
                results[Quantity(Kind.INPUT_GRADIENT, name, cotangent)] = self._ordered(job, name, tensor)
        for cotangent, grads in computed.weight_grads.items():
            for name, tensor in grads.items():
                slot = slots[name]
                results[Quantity(Kind.WEIGHT_GRADIENT, slot.name, cotangent)] = self._canonical(slot, tensor)
        return results

    def _ordered(self, job: Job, name: str, tensor: Any) -> Tensor:
        result = self.to_numpy(tensor)
        if name in job.axes and result.values.ndim != len(job.axes[name]):
            return result  # judged as a SHAPE_MISMATCH
        return Tensor(self.from_layout(job, name)(result.values), result.dtype)

    def _canonical(self, slot: Slot, tensor: Any) -> Tensor:
        result = self.to_numpy(tensor)
        return Tensor(slot.to_canonical(result.values), result.dtype)


def no_sublayer(adapter: Adapter, path: str, have: Iterable[str]) -> SpecError:
    """What to raise for a tap on a sub-layer that the layer does not have."""
    return SpecError(
        f"the taps of {type(adapter).__name__} name the sub-layer {path!r}, which the layer does not have: "
        f"{', '.join(filter(None, have)) or 'none'}."
    )


def tap_output(name: str, output: Any) -> Any:
    """Tap what a sub-layer returned: of several outputs the first, as the sequence of a recurrent layer."""
    if type(output) in (tuple, list):
        return type(output)((tap_output(name, output[0]), *output[1:]))
    return tap(name, output)


def attempt(work: Callable[[], Outputs]) -> Result:
    """Return what `work` does or raises: one job's error is its own, and the next still runs."""
    try:
        return work()
    except Exception as error:
        return error


def _slot(entry: str, native: str, who: str) -> Slot:
    name, colon, way = entry.partition(":")
    if not colon:
        return Slot(name.strip(), None)
    left, arrow, right = way.partition("->")
    if not arrow:
        raise SpecError(f"{native!r} of {who} must map as 'name: axes -> axes'. Received: {entry!r}.")
    try:
        return Slot(name.strip(), Rearrangement(parse(left), parse(right)))
    except SpecError as error:
        raise SpecError(f"{native!r} of {who}: {error}") from error


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # installed under another name, as tensorflow-cpu is
        return str(getattr(import_module(name), "__version__", "unknown"))
