"""The facts about a network's modules before a site is chosen; each costly fact is found once."""

from functools import cached_property
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import HAS_ECA, Candidate, Place
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.gate import gate_of, why_no_gate
from eca_multi.torch.surgery._wrap.sites import base_of, parent_of

from .classes import (
    channels_of,
    convolutions,
    is_container,
    is_passing,
    keeps_channels,
    layout_of,
    may_hold_branches,
    rank_reason,
)
from .flow import Flow, Untraceable, flow_of
from .observe import Run, observe
from .places import children, join, places
from .residual import Source, last_of, source_of
from .squeeze import is_squeeze, squeezed_channels


class Network:
    """A network and the facts about its modules: data flow, channels, and the results of a run on example inputs."""

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.places = places(model)
        self.at = {name: place for place in self.places for name in place.names}
        self.flows: dict[str, Flow | Untraceable] = {}

    @cached_property
    def run(self) -> Run | None:
        """What a run shows; None without example inputs."""
        if self.example_inputs is None:
            return None
        blocks = {place.path: base_of(place.module) for place in filter(_is_block, self.places)}
        untraceable = {path: block for path, block in blocks.items() if isinstance(self.flow(path), Untraceable)}
        watched = {place.path: place.module for place in self.places}
        return observe(self.model, self.example_inputs, watched, untraceable)

    def calls(self, place: Place) -> int | None:
        return self.run.calls.get(place.path) if self.run else None

    def flow(self, path: str) -> Flow | Untraceable:
        if path not in self.flows:
            try:
                self.flows[path] = flow_of(base_of(self.at[path].module))
            except Untraceable as error:
                self.flows[path] = error
        return self.flows[path]

    def blocks(self) -> list[tuple[Place, Flow]]:
        """Return the modules that may hold a residual add, with their data flow where that is known."""
        blocks = []
        for place in filter(_is_block, self.places):
            flow = self.flow(place.path)
            if isinstance(flow, Untraceable) and self.run and place.path in self.run.flows:
                flow = self.run.flows[place.path]
            if isinstance(flow, Flow):
                blocks.append((place, flow))
        return blocks

    def candidate(
        self, place: Place, tensor: str = "", source: Source | None = None, *, action: str = "after", notes: Any = ()
    ) -> Candidate:
        """Describe a module as a site; `source` is the end of the branch that the module closes."""
        base = base_of(place.module)
        shape = self.run.shapes.get(place.path) if self.run else None
        channels = self.channels(place)
        if channels is None and shape is not None and len(shape) > 2:
            channels = shape[1]
        is_turned = source is not None and source.layout != "" and shape is None
        layout = source.layout if source is not None and is_turned else layout_of(base, channels, shape)
        return Candidate(
            path=place.path,
            module=place.module,
            action=action,
            module_type=type(base).__name__,
            tensor=tensor or f"the output of {place.path}",
            channels=channels,
            layout=layout,
            aliases=place.aliases,
            calls=self.calls(place),
            notes=(*(source.notes if source else ()), *notes),
            reason=self._reason(place) or ("" if is_turned else rank_reason(base, shape, layout)),
        )

    def _reason(self, place: Place) -> str:
        """Why a module cannot be a site; "" if it can."""
        if gate_of(place.module) is not None or isinstance(place.module, ECA):
            return HAS_ECA
        if is_container(place.module):
            inner = last_of(place.module)[0]
            return f"a container; name its last module, {join(place.path, inner)}" if inner else "a container"
        if self.run and not self.calls(place):
            return "never called on example_inputs"
        if self.run and self.run.shapes.get(place.path) is None:
            return "its output is no single tensor"
        return why_no_gate(place.module)

    def channels(self, place: Place) -> int | None:
        """Return the channels that a module says; for a module of modules, those of the one that makes the output."""
        base = base_of(place.module)
        known = channels_of(base)
        if known is None and keeps_channels(base):
            return self._channels_before(place)
        if known is None and children(base) and not isinstance(base, ECA):
            flow = self.flow(place.path)
            if isinstance(flow, Flow) and is_squeeze(flow, base):
                return squeezed_channels(base)
            if isinstance(flow, Flow) and len(flow.outputs) == 1:
                source = source_of(flow, base, before_activations(flow, base, flow.outputs[0]))
                if source.path and not source.layout:
                    known = self.channels(self.at[join(place.path, source.path)])
        return known

    def _channels_before(self, place: Place) -> int | None:
        """Return the channels of the input of a module that keeps them, as far as the data flow shows the input."""
        above, name = parent_of(place.path)
        flow = self.flow(above)
        if isinstance(flow, Flow):
            calls = flow.calls_of(name)
            if calls and len(flow.steps[calls[0]].inputs) == 1:
                source = source_of(flow, base_of(self.at[above].module), flow.steps[calls[0]].inputs[0])
                if source.path and not source.layout:
                    return self.channels(self.at[join(above, source.path)])
        return None


def before_activations(flow: Flow, block: nn.Module, number: int) -> int:
    """Step back over activations, which have no channels of their own."""
    while True:
        step = flow.steps[number]
        module = block.get_submodule(step.name) if step.kind == "module" else None
        is_blank = module is not None and not any(True for _ in module.parameters()) and not is_passing(module)
        if not is_blank or len(step.inputs) != 1 or convolutions(block) == 0:
            return number
        number = step.inputs[0]


def _is_block(place: Place) -> bool:
    module = base_of(place.module)
    return not isinstance(module, ECA) and may_hold_branches(module) and bool(children(module))
