"""The facts about a network's modules before a site is chosen; each costly fact is found once."""

from functools import cached_property, partial
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import Place
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.sites import parent_of

from .block import Block
from .called import called
from .channels import Channels
from .classes import convolutions, is_chain, may_add
from .flow import Flow, Untraceable, flow_of
from .grown import grown
from .inline import inlined
from .observe import Run, observe
from .places import join, places


class Network:
    """A network and the facts about its modules: data flow, channels, and the results of a run on example inputs."""

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.places = places(model)
        self.at = {name: place for place in self.places for name in place.names}
        self.flows: dict[str, Flow | Untraceable] = {}
        self._numbers: dict[str, float] = {name: n for n, place in enumerate(self.places) for name in place.names}
        self._blocks: dict[str, Block | None] = {}
        self.channels = Channels(self.at, self.block)

    def order(self, path: str) -> float:
        """Return where a path stands in the network; one without a module, an empty slot, behind the slot's block."""
        if path not in self._numbers:
            above = parent_of(path)[0]
            inside = [n for name, n in self._numbers.items() if not above or f"{name}.".startswith(f"{above}.")]
            self._numbers[path] = max(inside) + 0.5
        return self._numbers[path]

    @cached_property
    def run(self) -> Run | None:
        """What a run shows; None without example inputs."""
        if self.example_inputs is None:
            return None
        paths = [place.path for place in self.places if _may_add(place)]
        untraceable = [path for path in paths if isinstance(self.flow(path), Untraceable)]
        names = {place.path: place.names for place in self.places}
        watched = {place.path: place.module for place in self.places}
        return observe(self.model, self.example_inputs, watched, untraceable, names)

    @cached_property
    def larger_run(self) -> Run | None:
        """What a run on a larger input shows; None if the network takes no larger input."""
        watched = {place.path: place.module for place in self.places}
        for inputs in grown(self.example_inputs):
            try:
                return observe(self.model, inputs, watched)
            except UnsupportedModelError:
                continue
        return None

    def is_called(self, place: Place) -> bool:
        """Whether the network's forward calls a module, as far as a run or symbolic tracing of the whole tells."""
        if self.run is not None:
            return self.calls(place) != 0
        return self._called is None or id(place.module) in self._called

    @cached_property
    def _called(self) -> set[int] | None:
        return called(self.model)

    def calls(self, place: Place) -> int | None:
        return self.run.calls.get(place.path) if self.run else None

    def shape(self, place: Place) -> tuple[int, ...] | None:
        return self.run.shapes.get(place.path) if self.run else None

    def flow(self, path: str) -> Flow | Untraceable:
        if path not in self.flows:
            try:
                self.flows[path] = flow_of(self.at[path].module)
            except Untraceable as error:
                self.flows[path] = error
        return self.flows[path]

    def block(self, path: str) -> Block | None:
        """Return a module with its data flow; None if the data flow is unknown."""
        if path not in self._blocks:
            self._blocks[path] = self._block(path) if path in self.at else None
        return self._blocks[path]

    def _block(self, path: str) -> Block | None:
        place = self.at[path]
        flow = self.flow(place.path)
        if isinstance(flow, Untraceable) and self.run and place.path in self.run.flows:
            flow = self.run.flows[place.path]
        if isinstance(flow, Untraceable):
            return None
        inner = partial(self._inner, path)
        return Block(path, place.module, inlined(flow, lambda name: _flow_of(inner(name))), inner)

    def _inner(self, path: str, name: str) -> Block | None:
        place = self.at[join(path, name)]
        return self.block(place.path) if _may_add(place) or is_chain(place.module) else None

    def blocks(self) -> list[tuple[Place, Block]]:
        """Return the modules that may hold an add, with their data flow where that is known."""
        found = [(place, self.block(place.path)) for place in self.places if _may_add(place)]
        return [(place, block) for place, block in found if block is not None]

    def unknown(self, of_any: bool = False) -> dict[str, Untraceable]:
        """Return the modules, with convolutions inside or any, whose data flow is unknown, with the reason."""
        paths = [place.path for place in self.places if _may_add(place) and (of_any or convolutions(place.module))]
        flows = {path: self.flow(path) for path in paths if self.block(path) is None}
        return {path: flow for path, flow in flows.items() if isinstance(flow, Untraceable)}


def _flow_of(block: Block | None) -> Flow | None:
    return None if block is None else block.flow


def _may_add(place: Place) -> bool:
    module = place.module
    return not isinstance(module, ECA) and may_add(module)
