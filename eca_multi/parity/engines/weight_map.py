"""The weight map of an adapter, from the layer's parameters and buffers to the specification's weights and states."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import Rearrangement, SpecError, parse
from eca_multi.parity.define.job import Job


@dataclass(frozen=True)
class Slot:
    """The weight or state of the specification that a native parameter or buffer holds."""

    name: str
    rearrange: Rearrangement | None  # canonical to native; None keeps the order

    def to_native(self, array: np.ndarray) -> np.ndarray:
        return array if self.rearrange is None else self.rearrange(array)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        return array if self.rearrange is None else self.rearrange.inverse(array)


def slots_of(adapter: Adapter, job: Job, native: Mapping[str, Any]) -> dict[str, Slot]:
    """Match the layer's parameters and buffers with the specification's weights and states, shapes too."""
    slots = match(adapter, job, native)
    canonical = {**job.weights, **job.state}
    for name, slot in slots.items():
        shape = slot.to_native(np.asarray(canonical[slot.name])).shape
        if tuple(native[name].shape) != shape:
            raise SpecError(
                f"{name!r} of {type(adapter).__name__} must have the shape that the map gives, {shape}. "
                f"Received: {tuple(native[name].shape)}. Correct the map or the axes of {slot.name!r}."
            )
    return slots


def match(adapter: Adapter, job: Job, native: Collection[str]) -> dict[str, Slot]:
    """Match native names with the specification's, each exactly once, or raise SpecError."""
    who = type(adapter).__name__
    canonical = {**job.weights, **job.state}
    declared = adapter.weights_for(job.config)
    entries = {name: name for name in canonical} if declared is None else dict(declared)
    if unknown := [name for name in entries if name not in native]:
        have = ", ".join(native) or "none"
        raise SpecError(f"the weight map of {who} names {unknown[0]!r}, which the layer does not have: {have}.")
    if left := [name for name in native if name not in entries]:
        raise SpecError(
            f"the weight map of {who} must name every parameter and buffer. Received: no {left[0]!r}. "
            "Map it to a weight or state of the specification, or to None to leave it out."
        )
    slots = {n: _slot(entry, n, who) for n, entry in entries.items() if entry is not None}
    used = [slot.name for slot in slots.values()]
    if wrong := [name for name in used if name not in canonical]:
        raise SpecError(f"the weight map of {who} must lead to {', '.join(canonical)}. Received: {wrong[0]!r}.")
    if left := [name for name in canonical if name not in used]:
        raise SpecError(f"the weight map of {who} must use every weight and state. Received: none to {left[0]!r}.")
    for name in used:
        if used.count(name) > 1:
            raise SpecError(f"the weight map of {who} must use {name!r} once. Received: {used.count(name)} times.")
    return slots


def native_weights(job: Job, slots: Mapping[str, Slot]) -> dict[str, np.ndarray]:
    """Return the job's weights and states under the layer's names, in its axis orders."""
    canonical = {**job.weights, **job.state}
    return {name: slot.to_native(canonical[slot.name]) for name, slot in slots.items()}


def function_weights(adapter: Adapter, job: Job) -> dict[str, np.ndarray]:
    """Return the weights for a function, whose names and shapes the map alone gives."""
    declared = adapter.weights_for(job.config)
    names = {**job.weights, **job.state} if declared is None else declared
    return native_weights(job, match(adapter, job, names))


def check_trained(adapter: Adapter, job: Job, slots: Mapping[str, Slot], trained: Collection[str]) -> None:
    """Refuse a weight that the layer does not train, since a frozen weight has no gradient to compare."""
    for name, slot in slots.items():
        if job.gradients and slot.name in job.weights and name not in trained:
            raise SpecError(
                f"{name!r} of {type(adapter).__name__} must be trained to be the weight {slot.name!r}. "
                f"Received: a buffer, or a parameter that is frozen. Make {slot.name!r} a state of the "
                "specification, or train it."
            )


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
