"""The facts about an nnx network's modules before a site is chosen: from a traced run, or without one."""

from functools import cached_property
from typing import Any

from flax import nnx

from eca_multi.flax._jaxpr.residual import Branch, parent, residual_branches
from eca_multi.flax._jaxpr.squeeze import gates_its_input
from eca_multi.flax._run import Shape, stacked_note, tokens, unfit
from eca_multi.flax._start import is_instance_norm, is_layer_scale, notes_at_start
from eca_multi.flax.nnx.layers import ECA
from eca_multi.flax.nnx.surgery._wrap import NAME, base_class, is_gated
from eca_multi.surgery.candidate import HAS_ECA, Candidate, Place
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.surgery.reasons import NO_MODULE

from .classes import CONVS, NORMS, common_stack, static_channels, static_layout, static_stack
from .places import places
from .trace import Trace, trace


class Network:
    """A network and the facts about its modules; without example inputs there is no traced run."""

    def __init__(self, model: nnx.Module, example_inputs: Any = None, method: str = "__call__") -> None:
        self.model, self.example_inputs, self.method = model, example_inputs, method
        self.run: Trace | None = None if example_inputs is None else trace(model, example_inputs, method)
        everywhere = places(model)
        self.at = {name: place for place in everywhere for name in place.names}
        inside = [f"{place.path}.{NAME}" for place in everywhere if is_gated(place.module)]
        self.places = [place for place in everywhere if place.path not in inside]
        if self.run is not None:
            order = {path: number for number, path in enumerate(self.run.calls)}
            self.places.sort(key=lambda place: order.get(place.path, len(order)))
        self.convs = [place for place in self.places if isinstance(place.module, CONVS)]
        self.norms = [place for place in self.places if isinstance(place.module, NORMS)]
        self.ranks = {len(tuple(conv.module.kernel_size)) + 2 for conv in self.convs}

    def traced(self, where: str) -> Trace:
        """Return the run; raise UnsupportedModelError if there is none."""
        if self.run is None:
            raise UnsupportedModelError(
                f"model must come with example_inputs for where={where!r}: an nnx network has no graph before it runs. "
                "Received: example_inputs=None. Pass an array of zeros of the right shape; 'conv_norm', 'conv', "
                "'norm' and a list of paths need none."
            )
        return self.run

    @cached_property
    def branches(self) -> list[Branch]:
        return residual_branches(self.traced("residual").flow)

    def stack(self, place: Place) -> Shape | None:
        """Return the leading axes of a stacked block's variables; () for one block, None if other axes are stacked."""
        if self.run is None:
            return static_stack(place.module)
        calls = self.run.calls.get(place.path)
        if calls is not None and calls.variables:
            return common_stack(place.module, calls.variables)
        return self.stack(self.at[parent(place.path)]) if parent(place.path) in self.at and place.path else ()

    def channels(self, place: Place) -> tuple[int | None, str]:
        """Return the number of channels of a module's output and the layout, as far as they are known."""
        known = static_channels(place.module), static_layout(place.module)
        calls = self.run.calls.get(place.path) if self.run is not None else None
        shape = calls.outputs[0] if calls is not None else None
        if not shape:
            return known
        axis = self._channel_axis(place)
        is_first = len(shape) > 2 and (axis == 1 if axis is not None else known[1] == "channels_first")
        return shape[1 if is_first else -1], "channels_first" if is_first else "channels_last"

    def candidate(self, place: Place, notes: tuple[str, ...] = (), reason: str = "", **fields: Any) -> Candidate:
        """Describe a module as a site, with other values for `fields`; a reason of the module's own comes first."""
        channels, layout = self.channels(place)
        values: dict[str, Any] = {
            "path": place.path,
            "module": place.module,
            "module_type": base_class(place.module).__name__,
            "tensor": f"{place.path}: output",
            "channels": channels,
            "layout": layout or "channels_last",
            "aliases": place.aliases,
            # A tag holds a shared module's first name alone.
            "calls": None if self.run is None else self.run.flow.calls(place.path),
            "notes": (
                *depthwise_note(place.module),
                *stacked_note(self.stack(place) or ()),
                *_notes_at_start(place.module, channels),
                *notes,
            ),
            "reason": self._reason(place) or reason,
            "shape": self._outputs(place)[0] or (),
            "axis_reason": tokens(place.path, self._outputs(place), self.ranks),
        }
        return Candidate(**(values | fields))

    def at_branch(self, branch: Branch) -> Candidate:
        """Describe the module that ends a residual branch as a site."""
        place = self.at.get(branch.path)
        if branch.reason or place is None:
            reason = branch.reason or NO_MODULE.format(branch.path)
            return Candidate(branch.path, tensor=branch.tensor, reason=reason, what="add", line=branch.line)
        above = self.at.get(parent(place.path))
        if isinstance(place.module, ECA) and above is not None and is_gated(above.module):
            place = above
        notes = list(branch.notes)
        if gates_its_input(self.traced("residual").flow, place.path) and not isinstance(place.module, ECA):
            notes.append("after an SE block (where='se' replaces it)")
        return self.candidate(place, tuple(notes), tensor=branch.tensor, line=branch.line)

    def _reason(self, place: Place) -> str:
        """Why a module cannot be a site; "" if it can."""
        module = place.module
        if is_gated(module) or isinstance(module, ECA):
            return HAS_ECA
        if not place.path:
            return "it is the model itself"
        if hasattr(module, NAME):
            return f"has something of its own named {NAME!r}"
        if self.stack(place) is None:
            return "stacked along an axis other than the first"
        if self.run is None:
            return "" if static_layout(module) else "its channels are at an axis that is neither 1 nor the last"
        calls = self.run.calls.get(place.path)
        if calls is None:
            return "not called on these inputs"
        if not self._has_batch:
            return "the convolutions of this network do not run with one batch axis"
        return unfit(calls.outputs, self.ranks, self._channel_axis(place))

    def _outputs(self, place: Place) -> list[Shape | None]:
        """The shapes of a module's outputs; (None,) where no run shows them."""
        calls = self.run.calls.get(place.path) if self.run is not None else None
        return calls.outputs if calls is not None else [None]

    @cached_property
    def _has_batch(self) -> bool:
        """Whether a convolution's output in the run has one batch axis; True where no convolution tells."""
        shapes = [self._outputs(conv)[0] for conv in self.convs]
        return any(shape is None or len(shape) in self.ranks for shape in shapes) or not shapes

    def _channel_axis(self, place: Place) -> int | None:
        """The channel axis of a module's output in the run's data flow; None if unknown."""
        flow, shape = self.traced("any").flow, self._outputs(place)[0]
        node = next((flow.nodes[number] for number in flow.tags("out", place.path)), None)
        if node is None or node.axis is None or shape is None:
            return None
        axis = node.axis - (len(node.shape) - len(shape))  # the flow holds the output with the axes of each vmap
        return axis if axis >= 0 else None


def _notes_at_start(module: Any, channels: int | None) -> tuple[str, ...]:
    weights = {name: value.get_value() for name, value in vars(module).items() if isinstance(value, nnx.Param)}
    is_known = isinstance(module, (*CONVS, *NORMS, nnx.Linear)) or is_layer_scale(base_class(module).__name__, weights)
    if not is_known:
        return ()
    is_instance = is_instance_norm(module, channels, nnx.InstanceNorm)
    return notes_at_start(weights, has_bias="bias" in weights, is_instance_norm=is_instance)


def depthwise_note(module: Any) -> tuple[str, ...]:
    groups = getattr(module, "feature_group_count", 1) if isinstance(module, CONVS) else 1
    is_depthwise = groups > 1 and groups == module.in_features
    return ("depthwise: the gate is usually after the projection",) if is_depthwise else ()
