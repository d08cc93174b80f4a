"""A record of gates as JSON: everything but the raw rows, for other programs."""

import json
import math
from collections.abc import Mapping
from typing import Any

from .layer import EDGES, LayerGates
from .shown import shown_layers

SCHEMA = 1
FACTS = (
    "path", "channels", "kernel_size", "gate", "padding", "pool_axes", "causal_axis", "inserted", "calls", "count",
    "not_finite", "constant", "deviation",
)  # fmt: skip
ARRAYS = ("kernel", "mean", "variance", "minimum", "maximum", "histogram")


def to_json(record: Mapping[str, LayerGates]) -> str:
    """Return a record as JSON: the same bytes for the same record. What is NaN or infinite is null.

    Raises:
        TypeError: If the record is none. ValueError: If it is empty.

    Example:
        >>> import json
        >>> import numpy as np
        >>> from eca_multi.gates import GateRecord, LayerGates, to_json
        >>> record = GateRecord("torch", "Net")
        >>> record.add(LayerGates("eca", channels=3, kernel=np.zeros(3)), np.full((2, 3), 0.5))
        >>> json.loads(to_json(record))["layers"][0]["mean"]
        [0.5, 0.5, 0.5]
    """
    layers = [_facts(layer) for layer in shown_layers(record)]
    known = {name: getattr(record, name, "") for name in ("framework", "network")}
    content = {"schema": SCHEMA, **known, "edges": EDGES.tolist(), "layers": layers}
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _facts(layer: LayerGates) -> dict[str, Any]:
    facts: dict[str, Any] = {name: getattr(layer, name) for name in FACTS}
    facts |= {name: getattr(layer, name).tolist() for name in ARRAYS}
    facts["classes"] = [
        {"label": label, "count": one.count, "mean": one.mean.tolist(), "variance": one.variance.tolist()}
        for label, one in layer.classes.items()
    ]
    return facts


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
