"""Let Keras write the file of a network, so that the layout is Keras's own; then fill in the weights.

No variable of that network has values: its file is all that is written, and memory holds one tensor at a time.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]  # it has none
import numpy as np

from eca_multi.checkpoints.take import Checkpoint
from eca_multi.keras import networks
from eca_multi.keras._network_weights import native_view
from eca_multi.keras._private import without_values

from .model_file import OURS, variable_names


def write_weights_file(checkpoint: Checkpoint, path: Path, texts: dict[str, str]) -> str:
    """Write a `.weights.h5` file, and return the network's config as JSON."""
    config = _write_zeros(checkpoint, path)
    with h5py.File(path, "r+") as content:
        for name, kind, dataset in _datasets(content["layers"]):
            dataset[...] = native_view(kind, checkpoint.weights[name])
        content.attrs[OURS] = json.dumps(texts)
    return config


def _write_zeros(checkpoint: Checkpoint, path: Path) -> str:
    dtype = np.result_type(*(array.dtype for array in checkpoint.weights.values()))
    build: Callable[..., Any] = getattr(networks, checkpoint.found.network.name)
    with without_values() as scope:
        model = build(**checkpoint.found.options, dtype=dtype.name)
        for variable in model.variables:
            zeros = np.broadcast_to(np.zeros((), variable.dtype), variable.shape)  # memory for one number
            scope.add_update((variable, zeros))
        model.save_weights(path)
        return model.to_json()


def _datasets(layers: Any) -> Iterator[tuple[str, str, Any]]:
    for key, layer in layers.items():
        variables = layer.get("vars", {})
        if variables:
            names = variable_names(key, variables.attrs["name"], len(variables))
            for i, (name, kind) in enumerate(names):
                yield name, kind, variables[str(i)]
