"""The recorded gates of one ECA: what the layer is, and the statistics of its gates."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import too_many_classes, wrong_labels
from .moments import Array, Moments

HIGHEST = 2.0  # of the named gates: 2sigmoid ends there
BINS = 100
EDGES = np.linspace(0.0, HIGHEST, BINS + 1)
MOST_CLASSES = 1000
OPTIONS = ("padding", "gate", "channel_axis", "pool_axes", "causal_axis")


def options_of(layer: Any) -> dict[str, Any]:
    """Return what `eca` takes beside x and the kernel to compute the gate of a framework's layer."""
    return {name: value for name in OPTIONS if (value := getattr(layer, name, None)) is not None}


def name_of(gate: Any) -> str:
    """Return the name of a gate; of a function its own, which a file can hold."""
    return gate if isinstance(gate, str) else getattr(gate, "__name__", type(gate).__name__)


@dataclass
class LayerGates:
    """One ECA and the statistics of its gates over all recorded samples and kept positions.

    The size does not grow with the data: a gate (N, C, *kept) is counted as N times the kept positions rows of C.

    Args:
        path: In the network; of an inserted ECA the site's, which `remove_eca(include=[path])` takes.
        channels: Number of channels C.
        kernel: The canonical kernel, (k,) or (C, k), as it was when the recording ended.
        gate, padding, pool_axes, causal_axis: The layer's options; of a gate that is a function, its name.
        inserted: Whether surgery put the ECA there, and can take it out.
        most_raw: How many rows to keep as they are.

    Attributes:
        calls: How often the layer was called.
        minimum, maximum: (C,), of each channel.
        histogram: (102,) numbers of gates: below 0, in each of the 100 bins of `EDGES`, and above 2.
        not_finite: How many gates were NaN or infinite; they are in no bin, and make mean and extremes NaN.
        classes: Mean and variance for each label.
        raw, raw_labels: The first `most_raw` rows (R, C) in float32, and the label of each row, None without one.

    Example:
        >>> import numpy as np
        >>> from eca_multi.gates import LayerGates
        >>> layer = LayerGates("layer1.0.eca", channels=3, kernel=np.zeros(3))
        >>> layer.add(np.full((4, 3), 0.5), ["cat", "cat", "dog", "dog"])
        >>> layer.mean, layer.classes["cat"].count
        (array([0.5, 0.5, 0.5]), 2)
    """

    path: str
    channels: int
    kernel: Array
    gate: str = "sigmoid"
    padding: str = "zeros"
    pool_axes: tuple[int, ...] | None = None
    causal_axis: int | None = None
    inserted: bool = False
    most_raw: int = 0
    calls: int = 0
    all: Moments = field(init=False)
    minimum: Array = field(init=False)
    maximum: Array = field(init=False)
    histogram: NDArray[np.int64] = field(init=False)
    not_finite: int = 0
    classes: dict[Any, Moments] = field(default_factory=dict)
    raw_labels: list[Any] = field(default_factory=list)
    _raw: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, path: str, layer: Any, channels: int, kernel: Any, inserted: bool) -> "LayerGates":
        """Return the record of a framework's layer, without gates yet."""
        pool_axes = getattr(layer, "pool_axes", None)
        axes = None if pool_axes is None else tuple(pool_axes), getattr(layer, "causal_axis", None)
        kernel = np.asarray(kernel, np.float64)
        return cls(path, channels, kernel, name_of(layer.gate), layer.padding, *axes, inserted)

    def __post_init__(self) -> None:
        self.all = Moments(self.channels)
        self.minimum = np.full(self.channels, np.inf)
        self.maximum = np.full(self.channels, -np.inf)
        self.histogram = np.zeros(BINS + 2, np.int64)

    @property
    def count(self) -> int:
        """The number of rows: samples times kept positions."""
        return self.all.count

    @property
    def mean(self) -> Array:
        return self.all.mean

    @property
    def variance(self) -> Array:
        return self.all.variance

    @property
    def raw(self) -> NDArray[np.float32]:
        empty = np.zeros((0, self.channels), np.float32)
        return np.concatenate([empty, *self._raw])

    @property
    def kernel_size(self) -> int:
        return int(self.kernel.shape[-1])

    @property
    def constant(self) -> float:
        """The number that all gates are nearest to: the middle of the extremes."""
        return float((self.minimum.min() + self.maximum.max()) / 2) if self.count else float("nan")

    @property
    def deviation(self) -> float:
        """The largest distance of any gate from `constant`."""
        return float((self.maximum.max() - self.minimum.min()) / 2) if self.count else float("nan")

    def add(self, gate: Any, labels: list[Any] | None = None) -> None:
        """Take in the gate (N, C, *kept) of one call, with one label for each sample or none."""
        gate = np.asarray(gate, np.float64)
        samples = len(gate)
        if labels is not None and len(labels) != samples:
            raise wrong_labels(len(labels), samples, self.path)
        rows = np.moveaxis(gate, 1, -1).reshape(-1, self.channels)
        each = len(rows) // samples if samples else 1  # the kept positions of one sample
        known = dict.fromkeys([*self.classes, *(labels or ())])
        if len(known) > MOST_CLASSES:
            raise too_many_classes(MOST_CLASSES)
        self.calls += 1
        if not len(rows):
            return
        self.all.add(rows)
        self.minimum = np.minimum(self.minimum, rows.min(0))
        self.maximum = np.maximum(self.maximum, rows.max(0))
        finite = rows[np.isfinite(rows)]
        self.not_finite += rows.size - finite.size
        places = np.searchsorted(EDGES, finite, side="right")
        places[finite == HIGHEST] = BINS  # the last bin holds its upper edge
        self.histogram += np.bincount(places, minlength=BINS + 2)
        of_rows = [label for label in labels or [None] * samples for _ in range(each)]
        for label in dict.fromkeys(labels or ()):
            own = [number for number, of_row in enumerate(of_rows) if of_row == label]
            self.classes.setdefault(label, Moments(self.channels)).add(rows[own])
        room = self.most_raw - len(self.raw_labels)
        if room > 0:
            self._raw.append(rows[:room].astype(np.float32))
            self.raw_labels += of_rows[:room]
