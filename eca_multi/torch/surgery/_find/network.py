"""The facts about a network's modules before a site is chosen; each costly fact is found once."""

from functools import cached_property, partial
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import HAS_ECA, Candidate, Place
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.gate import gate_of, merging, why_no_gate
from eca_multi.torch.surgery._wrap.sites import parent_of

from .axis import Axis, axis_in_run, axis_without_run, lengths
from .block import Block
from .called import called
from .classes import axis_of, channels_of, convolutions, is_chain, is_container, is_passing, keeps_channels, may_add
from .flow import ADDS, Flow, Untraceable, flow_of
from .grown import grown
from .inline import inlined
from .observe import Run, observe
from .places import children, join, places
from .residual import CHANGED, Source, last_of, source_of
from .squeeze import is_squeeze, squeezed_channels
from .start import notes_at_start

Said = tuple[int | None, int | None]  # the number of the channels, and their axis


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
        self._said: dict[str, Said] = {}

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

    def unknown(self) -> dict[str, Untraceable]:
        """Return the modules with convolutions inside whose data flow is unknown, with the reason."""
        paths = [place.path for place in self.places if _may_add(place) and convolutions(place.module)]
        flows = {path: self.flow(path) for path in paths if self.block(path) is None}
        return {path: flow for path, flow in flows.items() if isinstance(flow, Untraceable)}

    def candidate(
        self, place: Place, tensor: str = "", source: Source | None = None, *, action: str = "after", notes: Any = ()
    ) -> Candidate:
        """Describe a module as a site; `source` is the end of the branch that the module closes."""
        reason = self._reason(place)
        axis = self._axis(place, source) if not reason else Axis(*self.said(place))
        return Candidate(
            path=place.path,
            module=place.module,
            action=action,
            module_type=type(place.module).__name__,
            tensor=tensor or f"the output of {place.path}",
            channels=axis.channels,
            layout=axis.layout,
            aliases=place.aliases,
            calls=self.calls(place),
            notes=(*(source.notes if source else ()), *notes_at_start(place.module), *notes),
            reason=reason or axis.reason,
            axis_reason=axis.axis_reason,
            shape=self._shape(place) or (),
        )

    def _shape(self, place: Place) -> tuple[int, ...] | None:
        return self.run.shapes.get(place.path) if self.run else None

    def _reason(self, place: Place) -> str:
        """Why a module cannot be a site; "" if it can."""
        if gate_of(place.module) is not None or isinstance(place.module, ECA):
            return HAS_ECA
        if is_container(place.module):
            inner = last_of(place.module)[0]
            return f"a container; name its last module, {join(place.path, inner)}" if inner else "a container"
        if self.run and not self.calls(place):
            return "never called on example_inputs"
        if self.run and self._shape(place) is None:
            return "its output is no single tensor"
        return why_no_gate(place.module) or self._merged(place.path)

    def _merged(self, path: str) -> str:
        """Why a module inside of one that merges its branches cannot be a site."""
        above = parent_of(path)[0]
        while above:
            if above in self.at and (method := merging(self.at[above].module)):
                kind = type(self.at[above].module).__name__
                return f"inside of {above}, a {kind}, whose {method} merges its branches: name {above} itself"
            above = parent_of(above)[0]
        return ""

    def _axis(self, place: Place, source: Source | None) -> Axis:
        base, said, shape = place.module, self.said(place), self._shape(place)
        if shape is None:
            is_turned = source is not None and source.layout != ""
            return axis_without_run(place.path, base, said, is_turned)
        axis = axis_in_run(place.path, base, said, shape, None)
        if axis.axis_reason and axis.axis is None and self.larger_run is not None:
            axis = axis_in_run(place.path, base, said, shape, self.larger_run.shapes.get(place.path))
        return axis

    def channels(self, place: Place) -> int | None:
        return self.said(place)[0]

    def said(self, place: Place) -> Said:
        """Return what a module says of its channels; for a module of modules, the one that makes the output says it."""
        if place.path not in self._said:
            self._said[place.path] = (None, None)  # for a module that is reached again on the way
            self._said[place.path] = self._say(place)
        return self._said[place.path]

    def _say(self, place: Place) -> Said:
        base = place.module
        if channels_of(base) is not None or axis_of(base) is not None:
            return channels_of(base), axis_of(base)
        if keeps_channels(base) or is_passing(base):
            return self._said_before(place)
        if not children(base):
            scaled = lengths(base)  # a layer scale
            return (scaled[0], self._said_before(place)[1]) if len(scaled) == 1 else (None, None)
        block = self.block(place.path) if not isinstance(base, ECA) else None
        if block is None:
            return None, None
        if is_squeeze(block.flow, base):
            return squeezed_channels(base), self._said_before(place)[1]
        if len(block.flow.outputs) != 1:
            return None, None
        return self._said_by(block, before_activations(block, block.flow.outputs[0]))

    def _said_before(self, place: Place) -> Said:
        """Return the channels of the input of a module that keeps them, as far as the data flow shows the input."""
        above, name = parent_of(place.path)
        block = self.block(above)
        calls = block.flow.calls_of(name) if block is not None else []
        if block is None or not calls or len(block.inputs(calls[0])) != 1:
            return None, None
        return self._said_by(block, block.inputs(calls[0])[0])

    def _said_by(self, block: Block, number: int) -> Said:
        if block.step(number).kind == "function" and block.step(number).name in ADDS:
            return next((said for i in block.inputs(number) if (said := self._said_by(block, i))[0]), (None, None))
        source = source_of(block, number)
        if not source.path or set(source.notes) & CHANGED:
            return None, None
        channels, axis = self.said(self.at[join(block.path, source.path)])
        return channels, 1 if source.layout and axis == -1 else axis


def _flow_of(block: Block | None) -> Flow | None:
    return None if block is None else block.flow


def before_activations(block: Block, number: int) -> int:
    """Step back over activations, which have no channels of their own."""
    while True:
        module = block.of(number)
        is_blank = module is not None and not any(True for _ in module.parameters()) and not is_passing(module)
        if not is_blank or len(block.inputs(number)) != 1 or convolutions(block.module) == 0:
            return number
        number = block.inputs(number)[0]


def _may_add(place: Place) -> bool:
    module = place.module
    return not isinstance(module, ECA) and may_add(module)
