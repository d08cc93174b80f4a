"""The networks of examples/ports with PyTorch's weights in each port, and faults to plant there."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from eca_multi.parity.define.maps import WeightMap
from eca_multi.parity.models import Model, model_of

FOLDER = Path(__file__).parents[2] / "examples" / "ports"
NETWORKS = ("resnet18", "vit", "encoder", "unet", "tagger")
FRAMEWORKS = ("keras", "linen", "nnx")

State = dict[str, np.ndarray]


@cache
def network(name: str) -> ModuleType:
    """Import a file of examples/ports by its path."""
    spec = importlib.util.spec_from_file_location(f"ports_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def reference(name: str) -> Any:
    return network(name).torch_model()


def port(name: str, framework: str, fault: "Callable[[State], None] | Setting | None" = None) -> Model:
    """Return a port with the reference's weights, and with a fault in a setting or in a copy of the state, if given."""
    state = {n: tensor.numpy().copy() for n, tensor in reference(name).state_dict().items()}
    state = {n: array for n, array in state.items() if not n.endswith("num_batches_tracked")}
    made = getattr(network(name), f"{framework}_model")()
    if isinstance(fault, Setting):
        made = fault.plant(made, framework)
    elif fault is not None:
        fault(state)
    model = model_of(made)
    shapes = [{n: array.shape for n, array in side.items()} for side in (state, model.weights())]
    weights = WeightMap.of(network(name).MAPS[framework], *shapes, f"{name} in {framework}").to_native(state)
    return model.with_weights(weights)


# --- faults in weights: what a wrong map would write


def flipped(name: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = state[name][..., ::-1, ::-1].copy()

    return change


def without(name: str) -> Callable[[State], None]:
    return lambda state: state[name].fill(0.0)


def reordered(name: str, order: tuple[int, ...]) -> Callable[[State], None]:
    """Put equal parts of a weight's first axis into another order."""

    def change(state: State) -> None:
        parts = np.split(state[name], len(order))
        state[name] = np.concatenate([parts[i] for i in order])

    return change


def swapped(first: str, second: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[first], state[second] = state[second], state[first]

    return change


# --- faults in settings


@dataclass(frozen=True)
class Setting:
    """A wrong value of one layer's attribute, with the names of the layer in each framework."""

    path: str  # in linen and nnx: "blocks/3/norm1"; linen calls that block3/norm1
    keras: str
    value: float
    attribute: str = "epsilon"

    def plant(self, port: Any, framework: str) -> Any:
        """Return the port with the wrong value."""
        if framework == "linen":
            module, variables = port
            return self._linen(module), variables
        layer = port.get_layer(self.keras) if framework == "keras" else port
        for step in self.path.split("/") if framework == "nnx" else ():
            layer = layer[int(step)] if step.isdigit() else getattr(layer, step)
        if getattr(layer, self.attribute) == self.value:
            raise ValueError(f"{self.attribute} is {self.value} already")
        setattr(layer, self.attribute, self.value)
        return port

    def _linen(self, module: Any) -> Any:
        from flax import linen as nn

        path = tuple(re.sub(r"blocks/(\d+)", r"block\1", re.sub(r"(layer\d)/(\d)", r"\1_\2", self.path)).split("/"))

        def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            if context.module.path == path:
                object.__setattr__(context.module, self.attribute, self.value)
            return call(*arguments, **keywords)

        class Wrong(type(module)):
            @nn.compact
            def __call__(self, *arguments: Any) -> Any:
                with nn.intercept_methods(intercept):
                    return super().__call__(*arguments)

        return Wrong()
