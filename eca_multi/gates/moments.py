"""Running statistics of rows: counts, means and squared deviations, merged block by block and so as exact as one pass.

Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Mean and variance of each channel over rows that were added so far, in float64.

    Args:
        channels: Number of columns C.

    Attributes:
        count: Number of rows.
        mean: (C,); NaN before the first row.
        squares: (C,), the sum of the squared deviations from the mean.

    Example:
        >>> import numpy as np
        >>> from eca_multi.gates import Moments
        >>> moments = Moments(2)
        >>> moments.add(np.array([[0.0, 1.0], [1.0, 1.0]]))
        >>> moments.mean, moments.variance
        (array([0.5, 1. ]), array([0.25, 0.  ]))
    """

    channels: int
    count: int = 0
    mean: Array = field(init=False)
    squares: Array = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.full(self.channels, np.nan)
        self.squares = np.zeros(self.channels)

    @property
    def variance(self) -> Array:
        """(C,), over the rows as the whole population; NaN before the first row."""
        if not self.count:
            return np.full(self.channels, np.nan)
        return self.squares / self.count

    def add(self, rows: Array) -> None:
        """Take in rows (R, C)."""
        if not len(rows):
            return
        with np.errstate(invalid="ignore"):  # of an infinite gate the deviation is no number
            mean = rows.mean(0)
            squares = ((rows - mean) ** 2).sum(0)
            if not self.count:
                self.count, self.mean, self.squares = len(rows), mean, squares
                return
            count = self.count + len(rows)
            difference = mean - self.mean
            self.mean = self.mean + difference * (len(rows) / count)
            self.squares = self.squares + squares + difference**2 * (self.count * len(rows) / count)
            self.count = count
