"""Write a record of gates as one .npz file: arrays of numbers, and their names as JSON. `numpy.load` opens it too."""

import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from eca_multi._files.file import write_atomically

if TYPE_CHECKING:
    from .record import GateRecord

SCHEMA = 1
FACTS = "facts.npy"
OPTIONS = ("gate", "padding", "pool_axes", "causal_axis", "inserted", "calls", "not_finite")


def save_gates(record: "GateRecord", path: str | os.PathLike[str]) -> None:
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "framework": record.framework,
        "network": record.network,
        "raw": record.most_raw,
        "layers": [],
    }
    arrays: dict[str, Any] = {}
    for number, layer in enumerate(record.values()):
        known = {"path": layer.path, "channels": layer.channels, "count": layer.count}
        known |= {name: getattr(layer, name) for name in OPTIONS}
        known["classes"] = [[label, moments.count] for label, moments in layer.classes.items()]
        known["raw_labels"] = layer.raw_labels
        facts["layers"].append(known)
        moments = list(layer.classes.values())
        several = np.zeros((0, layer.channels))
        here = {
            "kernel": np.asarray(layer.kernel, np.float64),
            "mean": layer.mean,
            "squares": layer.all.squares,
            "minimum": layer.minimum,
            "maximum": layer.maximum,
            "histogram": layer.histogram,
            "class_mean": np.array([one.mean for one in moments]) if moments else several,
            "class_squares": np.array([one.squares for one in moments]) if moments else several,
            "raw": layer.raw,
        }
        arrays |= {f"{number}/{name}": array for name, array in here.items()}
    text = json.dumps(facts).encode()
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, facts=np.frombuffer(text, np.uint8), **arrays)
    write_atomically(path, written.getvalue())
