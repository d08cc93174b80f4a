"""Records of gates for tests of pictures and pages: drawn by numbers, without a network."""

import numpy as np

from eca_multi.gates import GateRecord, LayerGates

LABELS = ("cat", "dog", "frog")


def record(channels=(8, 24, 96), labels=LABELS, seed=0, network="Net", idle=True):
    """A record of ECAs with these channels, one kernel per channel in the second, the last one idle."""
    rng = np.random.default_rng(seed)
    made = GateRecord("torch", network)
    for number, width in enumerate(channels):
        kernel = rng.normal(size=(width, 3) if number == 1 else 5)
        layer = LayerGates(f"layer{number + 1}.0.eca", width, kernel, inserted=True)
        moving = 0.0 if idle and number == len(channels) - 1 else 0.2
        means = 0.5 + moving * rng.uniform(-1, 1, (max(1, len(labels)), width))
        for turn in range(4):
            gates = means[turn % len(means)] + moving / 4 * rng.uniform(-1, 1, (10, width))
            made.add(layer, gates, [labels[turn % len(labels)]] * 10 if labels else None)
    return made
