"""Which layers and classes of a record a picture shows, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from eca_multi._printable import printable

from .errors import no_record, no_such_layer, not_recorded, too_many_shown
from .layer import LayerGates

MOST_SHOWN = 6  # classes that a chart tells apart


def shown_layers(record: Any, paths: Sequence[str] | None = None) -> list[LayerGates]:
    """Return the layers of these paths, or all."""
    values: list[LayerGates] = list(record.values()) if isinstance(record, Mapping) else []
    if not isinstance(record, Mapping) or not all(isinstance(layer, LayerGates) for layer in values):
        raise no_record(record)
    if not values:
        raise not_recorded("record", "of one ECA or more", "an empty record", "Record a call of the network first.")
    if paths is None:
        return values
    if isinstance(paths, str) or not list(paths):
        remedy = "Pass paths of the record in a list, or None for all."
        raise not_recorded("layers", "a list of one path or more", repr(paths), remedy)
    for path in paths:
        if path not in record:
            raise no_such_layer(path, tuple(record))
    return [record[path] for path in paths]


def shown_classes(layers: Sequence[LayerGates], classes: Sequence[Any] | None = None) -> list[Any]:
    """Return these labels, or the first six of the layers', numbers before names."""
    known = dict.fromkeys(label for layer in layers for label in layer.classes)
    in_order = sorted(known, key=lambda label: (isinstance(label, str), label))
    if classes is None:
        return in_order[:MOST_SHOWN]
    if isinstance(classes, str):
        raise not_recorded("classes", "a list of labels", repr(classes), f"Pass [{classes!r}].")
    for label in classes:
        if label not in known:
            some = ", ".join(map(repr, in_order[:8])) or "none"
            raise not_recorded("classes", "labels of the record", repr(label), f"It has {some}.")
    if len(classes) > MOST_SHOWN:
        raise too_many_shown(len(classes), MOST_SHOWN)
    return list(classes)


def title_of_record(record: Any) -> str:
    network, framework = getattr(record, "network", ""), getattr(record, "framework", "")
    name = printable(network) or "a network"
    return f"Gates of {name}" + (f" ({printable(framework)})" if framework else "")
