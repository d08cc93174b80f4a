"""The record of a network's gates: its layers by path, the labels of the present call, and a table of it all."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from eca_multi._errors import _integer, _text
from eca_multi._printable import printable

from .errors import labelled_twice, no_labels, no_such_layer
from .layer import LayerGates
from .write import save_gates


class GateRecord(Mapping[str, LayerGates]):
    """The gates of a network by the paths of its ECAs, in the order of the network's first call.

    Args:
        framework: "torch", "keras", "linen" or "nnx".
        network: The class or the name of the network.
        raw: How many rows (samples, or kept positions of samples) of each layer to keep as they are, beside the
            statistics: a record's size is bounded by this number, and not by the data.

    Example:
        >>> import torch
        >>> from eca_multi.torch import ECA, record_gates
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), ECA(8))
        >>> with record_gates(model) as gates, gates.label([0, 1]):
        ...     y = model(torch.ones(2, 3, 5, 5))
        >>> gates.paths, gates["1"].count, gates.labels
        (('1',), 2, (0, 1))
    """

    def __init__(self, framework: str, network: str = "", *, raw: int = 0) -> None:
        self.framework = framework
        self.network = network
        self.most_raw = check_raw(raw)
        self._layers: dict[str, LayerGates] = {}
        self._labels: list[Any] | None = None
        self._lock = threading.Lock()  # host callbacks of a compiled function come from threads of its own
        self._faults: list[Exception] = []
        self.wait: Callable[[], object] = lambda: None  # until gates that are on their way have come

    def __getitem__(self, path: str) -> LayerGates:
        if path not in self._layers:
            raise no_such_layer(path, self.paths)
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, path: object) -> bool:
        return path in self._layers

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._layers)

    @property
    def labels(self) -> tuple[Any, ...]:
        """All labels that were given, numbers before names."""
        known = dict.fromkeys(label for layer in self._layers.values() for label in layer.classes)
        return tuple(sorted(known, key=lambda label: (isinstance(label, str), label)))

    @contextmanager
    def label(self, labels: Any) -> Iterator[None]:
        """Within the context, the samples of each call have these labels: integers or strings, one a sample."""
        if self._labels is not None:
            raise labelled_twice()
        self.settle()
        self._labels = as_labels(labels)
        try:
            yield
            self.settle()
        finally:
            self._labels = None

    def add(self, layer: LayerGates, gate: Any, labels: Any = None) -> None:
        """Take in one call of a layer: its gate (N, C, *kept). The framework's `record_gates` calls this."""
        given = self._labels if labels is None else as_labels(labels)
        with self._lock:
            known = self._layers.get(layer.path)
            if known is None:
                layer.most_raw = self.most_raw
                known = layer
            known.add(gate, given)  # raises for labels that do not fit, and then the record has no empty layer
            self._layers[known.path] = known

    def receive(self, layer: LayerGates, gate: Any) -> None:
        """Do as `add`, for a host callback, in which an exception would be lost: `settle` raises it."""
        try:
            self.add(layer, gate)
        except Exception as fault:
            self._faults.append(fault)

    def settle(self) -> None:
        """Wait for gates that are on their way, and raise what went wrong with one."""
        self.wait()
        faults, self._faults = self._faults, []
        if faults:
            raise faults[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to one .npz file, whole or not at all; `load_gates` reads it.

        Raises:
            OSError: If the file cannot be written.
        """
        save_gates(self, path)

    def __str__(self) -> str:
        head = ("path", "C", "k", "gate", "rows", "mean", "std", "min", "max")
        rows = [head, *(_row(layer) for layer in self._layers.values())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) if i in (0, 3) else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
            for pairs in (tuple(zip(row, widths, strict=True)) for row in rows)
        ]
        title = f"Gates of {self.network or 'a network'} ({self.framework}): {len(self)} ECAs"
        classes = f", {len(self.labels)} classes" if self.labels else ""
        return "\n".join(printable(line.rstrip()) for line in (title + classes, *lines))

    def __repr__(self) -> str:
        return f"<GateRecord of {len(self)} ECAs>"


def as_labels(labels: Any) -> list[Any]:
    """Return labels as plain integers or strings; a column (N, 1), as Keras has it, counts as one label a sample."""
    array = labels.detach().cpu() if hasattr(labels, "detach") else labels
    try:
        array = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise no_labels(labels) from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    is_text = array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(label, str) for label in array))
    if array.ndim != 1 or (array.dtype.kind not in "iub" and not is_text and array.size):
        raise no_labels(array)
    return [str(label) if is_text else int(label) for label in array]


def check_raw(raw: Any) -> int:
    remedy = "Pass how many rows of each layer to keep, for example 1000."
    number = _integer("raw", raw, "an integer", remedy)
    if number < 0:
        raise ValueError(_text("raw", "0 or more", f"raw={raw}", remedy))
    return number


def _row(layer: LayerGates) -> tuple[str, ...]:
    numbers = (layer.mean.mean(), np.sqrt(layer.variance.mean()), layer.minimum.min(), layer.maximum.max())
    facts = (layer.path, str(layer.channels), str(layer.kernel_size), layer.gate, str(layer.count))
    return (*facts, *(f"{number:.4f}" for number in numbers))
