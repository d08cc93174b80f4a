"""Whether a Keras network looks at no later position, or at one frame at a time: what its graph says, and the probe.

The graph tells all of a network that is made of Keras's own layers and operations: what it promises holds. The run on
example inputs adds what it hides: in layers whose code cannot be read, or where all looks alike to a graph.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi.surgery.axes import place_of
from eca_multi.surgery.causal_probe import Array, Outcome, probe
from eca_multi.surgery.causality import Evidence, Found, grouped
from eca_multi.surgery.entry import ECAEntry

from .finder import Finder
from .graph import is_built
from .observe import as_numbers, recorded, run
from .promises import Promises


def evidence(finder: Finder, entries: Sequence[ECAEntry], example_inputs: Any) -> tuple[Evidence, ...]:
    """Return what shows that plain ECA at these sites would carry later positions or other frames into a position."""
    if not entries:
        return ()
    said = _said(finder, entries)
    known = {(path, shown.place) for shown in said for path in shown.sites}
    more = []
    for shown in _probed(finder, entries, example_inputs).evidence:
        sites = tuple(path for path in shown.sites if (path, shown.place) not in known)
        more += [replace(shown, sites=sites)] if sites else []
    return (*said, *more)


def _said(finder: Finder, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Return what the graph promises; of the same sites and axis once."""
    promises = Promises(finder.network)
    found: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[Evidence, ...]] = {}
    for promise in promises:
        how = "frames" if promise.is_framewise else "causal"
        sites = []
        for entry in entries:
            for tensor in finder.tensors(entry):
                rank = len(tensor.shape)
                for axis in sorted(promises.axes_at(promise, tensor) - {entry.channel_axis % rank}):
                    sites.append((entry.path, how, place_of(axis, entry.layout, rank), rank))
        more = f" and {len(promise.signs) - 1} more" if len(promise.signs) > 1 else ""
        key = (how, tuple((path, place) for path, _, place, _ in sites))
        found.setdefault(key, grouped(sites, f"{promise.signs[0]}{more}"))
    return tuple(shown for group in found.values() for shown in group)


def _probed(finder: Finder, entries: Sequence[ECAEntry], example_inputs: Any) -> Found:
    """Return what runs show. What a layer assigns in them is forgotten."""
    model = finder.model
    if example_inputs is None or not is_built(model):
        return Found()
    operations = {entry.path: finder.site(entry).operation for entry in entries}

    def observed(arrays: Sequence[Array], paths: Sequence[str]) -> Outcome:
        given = [np.asarray(a).astype(b.dtype) for a, b in zip(arrays, inputs, strict=True)]
        with recorded({path: operations[path] for path in paths}) as seen, keras.StatelessScope():
            outputs = run(model, keras.tree.pack_sequence_as(example_inputs, given))
        return Outcome(outputs, {path: calls[0] for path, calls in seen.items() if calls})

    try:
        inputs = [as_numbers(ops.convert_to_tensor(leaf)) for leaf in keras.tree.flatten(example_inputs)]
        return probe(observed, inputs, observed(inputs, ()).outputs, entries)
    except Exception:  # inputs that the network refuses: verify says so, and a plan needs no run
        return Found()
