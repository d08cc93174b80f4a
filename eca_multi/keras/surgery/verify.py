"""Prove an insertion in a Keras network by one run before and one after."""

from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.graph import Network
from ._wrap.installed import installed_layers


def verify(plan: ECAPlan, old: Any, new: Any, example_inputs: Any) -> None:
    """Raise VerifyError unless the new model does what the plan says."""
    before, after = run(old, example_inputs), run(new, example_inputs)
    same = len(before) == len(after) and all(
        x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True) for x, y in zip(before, after, strict=True)
    )
    calls = {entry.path: entry.calls or 0 for _, entry in installed_layers(Network(new))}
    check_verified(plan, same, {e.path: (e.calls or 0, calls.get(e.path, 0)) for e in plan.entries})


def run(model: Any, example_inputs: Any) -> list[np.ndarray]:
    """Return a built model's outputs in inference, as a flat list."""
    if isinstance(example_inputs, tuple | list):  # a model takes its inputs as one argument
        example_inputs = example_inputs[0] if len(example_inputs) == 1 else list(example_inputs)
    outputs = model(example_inputs, training=False)
    return [np.array(ops.convert_to_numpy(y)) for y in keras.tree.flatten(outputs)]
