"""Which order a Keras network keeps: as its graph says, and as runs with other inputs at later positions show."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi.surgery.causality import CAUSAL, FRAMES, Promise, SiteAxis, with_promises
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.order import Array, Observed, probe
from eca_multi.surgery.plan import ECAPlan

from .causal import Causality
from .check import does_not_run
from .finder import Finder
from .graph import is_built
from .observe import as_numbers, recorded, run


def with_order(plan: ECAPlan, finder: Finder, example_inputs: Any) -> ECAPlan:
    """Return the plan with the ECAs that would break an order, as far as the graph or runs tell one."""
    return with_promises(plan, promises(finder, plan.entries, example_inputs))


def promises(finder: Finder, entries: Sequence[ECAEntry], example_inputs: Any) -> list[Promise]:
    """Return what the network keeps along the axes of its inputs; runs add what the graph does not say.

    Raises:
        UnsupportedModelError: If the network does not run on the example inputs.
    """
    found = list({(p.kind, tuple(p.sites.items())): p for p in reversed(_declared(finder, entries))}.values())[::-1]
    known = {(path, at) for promise in found for path, at in promise.sites.items()}
    seen = _seen(finder, entries, example_inputs)
    return [*found, *(promise for promise in seen if not set(promise.sites.items()) <= known)]


def _declared(finder: Finder, entries: Sequence[ECAEntry]) -> list[Promise]:
    causality = Causality(finder.network)
    found = []
    for promise in causality.promises:
        sites = {}
        for entry in entries:
            for tensor in finder.tensors(entry):
                rank = len(tensor.shape)
                axes = causality.axes_at(promise, tensor) - {entry.channel_axis % rank}
                if axes:
                    sites.setdefault(entry.path, SiteAxis(min(axes), rank))
        found.append(Promise(FRAMES if promise.is_framewise else CAUSAL, "; ".join(promise.signs[:2]), sites))
    return found


def _seen(finder: Finder, entries: Sequence[ECAEntry], example_inputs: Any) -> list[Promise]:
    """Return what runs show. What a layer assigns in them is forgotten."""
    model = finder.model
    if example_inputs is None or not is_built(model):
        return []
    leaves = keras.tree.flatten(example_inputs)
    try:
        arrays = [as_numbers(ops.convert_to_tensor(leaf)) for leaf in leaves]
    except (TypeError, ValueError):  # text, which no run can change a little
        return []
    places = {entry.path: finder.site(entry).operation for entry in entries}

    def observed(given: Sequence[Array]) -> Observed:
        inputs = [np.asarray(a).astype(b.dtype) for a, b in zip(given, arrays, strict=True)]
        try:
            with recorded(places) as seen, keras.StatelessScope():
                outputs = run(model, keras.tree.pack_sequence_as(example_inputs, inputs))
        except Exception as error:
            raise does_not_run(error) from error
        return Observed(outputs, seen)

    return probe(observed, arrays)
