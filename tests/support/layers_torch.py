"""What the tests of the torch layer share: float64 tensors, the oracle of them, and copies of a layer."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from eca_multi import reference

# float64 rounds at 1e-16 and the longest sum has 210 terms of size 1; a wrong formula is off by 1e-3 or more.
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}

# Central differences with a step of 1e-5: truncation 1e-10, cancellation 1e-16 / 1e-5.
STEP = 1e-5
DIFFERENCES = {"rtol": 1e-7, "atol": 1e-8}
SMALL = (2, 5, 2, 3)
MASK = np.array([[[True, False, True], [False, True, True]], [[False] * 3] * 2])  # the second sample has no position

DERIVATIVES = [
    pytest.param((1, 1, 3), {}, id="zeros"),
    pytest.param((1, 1, 7), {}, id="kernel wider than C"),
    pytest.param((1, 1, 3), {"padding": "circular", "gate": "2sigmoid"}, id="circular"),
    pytest.param((1, 1, 3), {"gate": "hard_sigmoid"}, id="hard_sigmoid"),
    pytest.param((5, 1, 3), {}, id="ECA-NS"),
    pytest.param((1, 1, 3), {"mask": MASK}, id="mask"),
    pytest.param((5, 1, 3), {"mask": MASK, "padding": "circular"}, id="ECA-NS, circular, mask"),
]

on_both = pytest.mark.usefixtures("code")


def draw(rng, shape=(2, 10, 3, 5), kernel=(1, 1, 3)):
    """A feature map with an offset for each channel, and an asymmetric kernel."""
    offsets = rng.uniform(-2, 2, (1, shape[1]) + (1,) * (len(shape) - 2))
    return torch.from_numpy(rng.normal(size=shape) + offsets), torch.from_numpy(rng.normal(size=kernel))


def canonical(weight):
    """(1, 1, k) to (k,) and (C, 1, k) to (C, k), as the oracle takes it."""
    array = weight.detach().double().numpy()[:, 0]
    return array[0] if len(array) == 1 else array


def oracle(x, weight, **options):
    return torch.from_numpy(reference.forward(x.detach().numpy(), canonical(weight), **options).y)


def oracle_grads(x, weight, cotangent, **options):
    grads = reference.backward(x.detach().numpy(), canonical(weight), cotangent.numpy(), **options)
    return torch.from_numpy(grads.dx), torch.from_numpy(grads.dw).reshape(weight.shape)


def with_weight(layer, weight):
    layer.load_state_dict({"conv.weight": weight})
    return layer


def for_torch(options):
    return {name: torch.from_numpy(v) if name == "mask" else v for name, v in options.items()}


def saved(value, weights_only):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: saved(layer, weights_only=False),
}
