"""How far a free training run drifts from the reference's: a picture beside the verdict, and never the verdict."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trajectory:
    """Free-running drift max |w - reference| over all weights at some steps, and the band of perturbed references."""

    runner: str
    case: str
    dtype: str
    optimizer: str
    steps: tuple[int, ...]
    drift: tuple[float, ...]
    band: tuple[float, ...]
    one_step: tuple[float, ...]
