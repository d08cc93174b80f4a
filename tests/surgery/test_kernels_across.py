"""The kernels of a network with ECA go from each framework into each other, by path or by a map of names."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.support.loading_nets import SITES, numpy, package, with_eca

KINDS = ("torch", "keras", "linen", "nnx")
layers = pytest.mark.only(*KINDS)
KERNELS = {path: np.array([0.1, -0.2, 0.3], np.float32) * (number + 1) for number, path in enumerate(SITES)}


@cache
def state(kind: str) -> Any:
    held = with_eca(kind).held
    return package(kind).eca_state(*held) if kind == "linen" else package(kind).eca_state(held)


@layers
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.keras] * (kind == "keras")) for kind in KINDS])
def test_kernels_go_in_and_come_out(kind):
    module = package(kind)
    assert set(module.to_canonical(state(kind))) == set(SITES)
    loaded = module.from_canonical(state(kind), KERNELS)
    back = module.to_canonical(loaded)
    assert {path: back[path].tolist() for path in SITES} == {path: KERNELS[path].tolist() for path in SITES}
    net = with_eca(kind)
    load = module.load_eca_state
    after = load(*net.held, loaded) if kind == "linen" else load(net.held, loaded)
    new = net.after(after).state("eca")
    assert sorted(numpy(one).ravel().tolist() for one in new.values()) == sorted(
        one.tolist() for one in KERNELS.values()
    )


@layers
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.keras] * (kind == "keras")) for kind in KINDS])
def test_other_paths_by_a_map_of_names(kind):
    module = package(kind)
    names = {path: f"backbone/{path}" for path in SITES}
    weights = {names[path]: kernel for path, kernel in KERNELS.items()}
    loaded = module.to_canonical(module.from_canonical(state(kind), weights, names=names))
    assert all(np.array_equal(loaded[path], KERNELS[path]) for path in SITES)
    swapped = module.from_canonical(state(kind), KERNELS, names=dict(zip(SITES, reversed(SITES), strict=True)))
    assert np.array_equal(module.to_canonical(swapped)[SITES[0]], KERNELS[SITES[1]])  # the control: names decide
    with pytest.raises(ValueError, match=r"weights do not fit: .*'norm' is missing; .*'backbone/head' is unexpected"):
        module.from_canonical(state(kind), weights)
    with pytest.raises(ValueError, match=r"names must map each of the network's sites .* Received: \['norm'\]"):
        module.from_canonical(state(kind), KERNELS, names={"norm": "norm"})
    with pytest.raises(TypeError, match="Received: list"):
        module.from_canonical(state(kind), KERNELS, names=["norm"])
    with pytest.raises(ValueError, match=r"'norm' has shape \(5,\), expected \(3,\)"):
        module.from_canonical(state(kind), {**KERNELS, "norm": np.zeros(5, np.float32)})
