"""A network in the middle of its training in mixed precision: nothing is lost, and its ECAs learn."""

import copy
from typing import Any

import jax
import keras
import numpy as np
import pytest
import torch

from tests.support.looking import look
from tests.support.surgery_twins import TWINS
from tests.support.trained_nets import TRAINED

MARKS = {
    "torch": [],
    "keras": [pytest.mark.keras, pytest.mark.slow],
    "nnx": [pytest.mark.slow],
    "linen": [pytest.mark.slow],
}


def entries(seen: dict[str, Any]) -> list[Any]:
    numbers = seen["numbers"]
    return list(numbers.items()) if isinstance(numbers, dict) else numbers


def values(kernels: Any) -> list[np.ndarray]:
    leaves = kernels if isinstance(kernels, list) else jax.tree.leaves(kernels)
    if leaves and isinstance(leaves[0], torch.Tensor):
        return [leaf.detach().numpy() for leaf in leaves]
    return [np.asarray(leaf if isinstance(leaf, jax.Array) else keras.ops.convert_to_numpy(leaf)) for leaf in leaves]


@pytest.mark.parametrize("twin", [pytest.param(twin, id=twin.name, marks=MARKS[twin.name]) for twin in TWINS])
def test_in_the_middle_of_training_in_mixed_precision(twin):
    training = TRAINED[twin.name]()
    net, insert = training.net, twin.package.insert_eca
    y, state, before = training.outputs(net), copy.deepcopy(twin.base_state(net)), look(twin.name, net)
    wrong = training.x[:, :2] if twin.name == "torch" else training.x[..., :2]
    with pytest.raises((TypeError, ValueError), match="must"):
        insert(*twin.arguments(net), ["conv", "norm"], example_inputs=wrong)
    assert look(twin.name, net) == before

    new = insert(*twin.arguments(net), ["conv", "norm"], example_inputs=training.x)
    after = look(twin.name, net)
    if twin.name in ("keras", "linen"):
        assert after == before
    else:  # the model itself has changed; its numbers and gradients have not
        assert [one for one in entries(after) if one in entries(before)] == entries(before)
    np.testing.assert_array_equal(training.outputs(new), y)
    kernels = values(twin.package.eca_parameters(*twin.arguments(new)))
    assert [kernel.dtype for kernel in kernels] == [np.float32, np.float32]  # as the weights, not as the activations
    assert not any(kernel.any() for kernel in kernels)

    new = training.step(new)
    assert all(kernel.any() for kernel in values(twin.package.eca_parameters(*twin.arguments(new))))
    restored = twin.load_base_state(new, state)  # the control: back at the state from before
    np.testing.assert_array_equal(training.outputs(restored), y)
