"""Recorded gates as one HTML file, by the templates and the style of a report of parity; no network, no script."""

from collections.abc import Mapping, Sequence

from eca_multi._page import check_installed

from .layer import LayerGates
from .shown import shown_classes, shown_layers


def to_html(record: Mapping[str, LayerGates], *, classes: Sequence[int | str] | None = None) -> str:
    """Return a page about recorded gates that stands alone: equal records give equal bytes.

    Args:
        record: Of `record_gates` or `load_gates`.
        classes: Labels of the classes to show, six at most; None shows the first six.

    Raises:
        NotInstalled: Without Jinja2 or matplotlib; the extra `plots` brings both.
        TypeError: If the record is none. ValueError: If it is empty, or for classes that it does not have.

    Example:
        >>> import numpy as np
        >>> from eca_multi.gates import GateRecord, LayerGates, to_html
        >>> record = GateRecord("torch", "Net")
        >>> record.add(LayerGates("eca", channels=3, kernel=np.zeros(3)), np.full((2, 3), 0.5))
        >>> to_html(record).startswith("<!doctype html>")
        True
    """
    layers = shown_layers(record)
    labels = shown_classes(layers, classes)
    check_installed("The page of gates", "plots")
    from .page import render

    return render(record, layers, labels)
