"""A layer of the bench: its ports as the frameworks ship it, and the faults that people make when they port it.

A port is an adapter. `torch_port`, `keras_port`, `linen_port`, `nnx_port` and `jax_port` make its class from a function
build(config). A fault replaces attributes of a right port. `Layer` gives every class a name at the top of its module,
so that a worker of the harness can import the class too.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from eca_multi.parity import Case, JaxAdapter, KerasAdapter, LinenAdapter, NnxAdapter, Spec, TorchAdapter
from eca_multi.parity.define.adapters import Adapter

Config = Mapping[str, Any]
Port = type[Adapter]
BACKENDS = ("tensorflow", "jax", "torch")


class Lazy:
    """A module that is imported when somebody takes an attribute of it: a worker imports one framework alone."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def _maker(base: Port) -> Callable[..., Port]:
    def make(build: Callable[[Config], Any], weights: Any = None, **attributes: Any) -> Port:
        return type("Port", (base,), {"build": _method(build), "weights": weights, **attributes})

    return make


def _method(build: Callable[[Config], Any]) -> Callable[[Any, Config], Any]:
    return lambda self, config: build(config)


torch_port, keras_port, linen_port, nnx_port, jax_port = map(
    _maker, (TorchAdapter, KerasAdapter, LinenAdapter, NnxAdapter, JaxAdapter)
)


def dtypes(config: Config) -> dict[str, Any]:
    """Return the arguments that give a Flax layer the job's dtypes."""
    return {"dtype": config["dtype"], "param_dtype": config["param_dtype"]}


def rngs() -> Any:
    return import_module("flax.nnx").Rngs(0)


@dataclass(frozen=True)
class Fault:
    """A fault of porting, with the truth about it.

    Attributes:
        name: What the port does.
        stage: The first tensor that is wrong: an output, a tap, a state "new_mean", or a gradient "dx".
        cause: The cause, a key of `causes.CAUSES`.
        on: Port -> attributes that replace those of the right port. "build" is a function of the configuration.
    """

    name: str
    stage: str
    cause: str
    on: Mapping[str, Mapping[str, Any]]


@dataclass
class Layer:
    """A layer: the specification with the right ports, and the faults.

    `spec` holds the keyword arguments of `Spec` besides name, runners and reference. The torch port is the reference.
    """

    name: str
    spec: Mapping[str, Any]
    ports: Mapping[str, Port]
    faults: Sequence[Fault] = ()
    reference: str = "torch"
    faulty: dict[tuple[str, str], Port] = field(default_factory=dict, init=False)  # by fault and port

    def __post_init__(self) -> None:
        module = sys._getframe(2).f_globals["__name__"]  # the dataclass's __init__ is between
        for port, adapter in self.ports.items():
            self._name(adapter, port, module)
        for fault in self.faults:
            for port, changes in fault.on.items():
                attributes = dict(changes)
                if "build" in attributes:
                    attributes["build"] = _method(attributes["build"])
                adapter = type("Faulty", (self.ports[port],), attributes)
                self.faulty[fault.name, port] = adapter
                self._name(adapter, f"{port} {fault.name}", module)

    def right(self, runners: Sequence[str]) -> Spec:
        """Return the specification with the right ports of these runners."""
        return self._spec({name: self.ports[kind_of(name)] for name in runners if kind_of(name) in self.ports})

    def wrong(self, fault: Fault, runner: str) -> Spec:
        """Return the specification with torch's right port, as its user has it, and the faulty port."""
        return self._spec({"torch": self.ports["torch"], runner: self.faulty[fault.name, kind_of(runner)]})

    def _spec(self, runners: Mapping[str, Port]) -> Spec:
        options = {"cases": (Case("usual", "sizes and values as they occur"),), **self.spec}
        return Spec(self.name, runners=runners, reference=self.ports[self.reference], **options)

    def _name(self, adapter: Port, suffix: str, module: str) -> None:
        """Put a class at the top of the layer's module, where a worker looks for the class."""
        adapter.__name__ = adapter.__qualname__ = re.sub(r"\W+", "_", f"{self.name} {suffix}")
        adapter.__module__ = module
        setattr(sys.modules[module], adapter.__name__, adapter)


def kind_of(runner: str) -> str:
    """Return the port that a runner runs: "keras" for each of its backends."""
    return runner.partition("-")[0]


def runs_of(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Fault, str]]:
    """Yield each fault with each runner that has it. The faults of Keras take turns on the three backends."""
    turn = 0
    for layer in layers:
        for fault in layer.faults:
            for port in fault.on:
                if port == "keras":
                    yield layer, fault, f"keras-{BACKENDS[turn % 3]}"
                    turn += 1
                else:
                    yield layer, fault, port
