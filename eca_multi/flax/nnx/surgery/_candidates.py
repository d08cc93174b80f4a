"""Where ECA could stand in an nnx network, for each `where`: by a traced run, or by what the modules say themselves."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
from flax import nnx

from eca_multi.flax._jaxpr.origins import origin_path
from eca_multi.flax._jaxpr.residual import Branch, parent, residual_branches
from eca_multi.flax._jaxpr.squeeze import gates_its_input
from eca_multi.flax.nnx.layers import ECA
from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.errors import UnsupportedModelError

from ._gated import NAME, base_class, is_gated
from ._modules import (
    CONVS,
    NORMS,
    Place,
    Shape,
    common_stack,
    parameters,
    places,
    static_channels,
    static_layout,
    static_stack,
)
from ._norm_after import norm_after
from ._trace import Trace

KINDS = ("residual", "block", "conv_norm", "conv", "norm", "se")
UNKNOWN_NORM = "which norm follows it cannot be told without a run: pass example_inputs"


class Finder:
    """All candidates of one network.

    Args:
        model: The network.
        run: A traced run of it; None where there are no example inputs.
    """

    def __init__(self, model: nnx.Module, run: Trace | None) -> None:
        self.run = run
        everywhere = places(model)
        self.at = {name: place for place in everywhere for name in (place.path, *place.aliases)}
        inside = [f"{place.path}.{NAME}" for place in everywhere if is_gated(place.module)]
        self.places = [p for p in everywhere if p.path not in inside]
        if run is not None:  # the order of the run
            order = {path: number for number, path in enumerate(run.seen)}
            self.places.sort(key=lambda place: order.get(place.path, len(order)))
        self.convs = [p for p in self.places if isinstance(p.module, CONVS)]
        self.norms = [p for p in self.places if isinstance(p.module, NORMS)]
        self.ranks = {_rank(p) for p in self.convs}

    def find(self, kind: str) -> list[Candidate]:
        """Return the candidates of one `where`, "any" for all modules.

        Raises:
            UnsupportedModelError: If this kind needs a run and there is none.
        """
        found: Callable[[], list[Candidate]] = getattr(self, f"_{kind}")
        return found()

    def offers(self) -> dict[str, int]:
        """How many sites each `where` finds."""
        kinds = KINDS if self.run is not None else ("conv_norm", "conv", "norm")
        return {kind: sum(not c.reason for c in self.find(kind)) for kind in kinds}

    def stack(self, place: Place) -> Shape | None:
        """The leading axes of a stacked block's variables; () for a block on its own, None for other axes."""
        if self.run is None:
            return static_stack(place.module)
        seen = self.run.seen.get(place.path)
        if seen is not None and seen.variables:
            return common_stack(place.module, seen.variables)
        return self.stack(self.at[parent(place.path)]) if parent(place.path) in self.at and place.path else ()

    # --- one method for each where -------------------------------------------------------------------------------

    def _any(self) -> list[Candidate]:
        return [self._here(place) for place in self.places]

    def _norm(self) -> list[Candidate]:
        return [self._here(place) for place in self.norms]

    def _conv(self) -> list[Candidate]:
        after = norm_after(self.convs, self.norms, self.at[""].module, self.run)
        text = "directly before {}: a constant gate has no effect through a norm"
        return [
            self._here(conv, notes=(text.format(norm),) if (norm := after.get(conv.path, "")) else ())
            for conv in self.convs
        ]

    def _conv_norm(self) -> list[Candidate]:
        after = norm_after(self.convs, self.norms, self.at[""].module, self.run)
        found: dict[str, Candidate] = {}
        for conv in self.convs:
            norm = after.get(conv.path, conv.path)
            if norm is None:
                found[conv.path] = self._here(conv, unless=UNKNOWN_NORM)
            elif norm == conv.path:
                found.setdefault(norm, self._here(conv))
            else:
                text = f"{norm}: output, after {conv.path}"
                found.setdefault(norm, self._here(self.at[norm], tensor=text, notes=_depthwise(conv.module)))
        return list(found.values())

    def _residual(self) -> list[Candidate]:
        return [self._branch(branch) for branch in self._branches]

    def _block(self) -> list[Candidate]:
        adds: dict[str, Branch] = {}
        for branch in self._branches:  # the last add of a block is its end
            if not branch.reason and branch.owner in self.at:
                adds[self.at[branch.owner].path] = branch
        kinds = {base_class(self.at[owner].module) for owner in adds if owner}
        found: dict[str, Candidate] = {}
        for place in self.places:
            if place.path and base_class(place.module) in kinds:
                one = self._branch(adds[place.path]) if place.path in adds else self._end(place)
                found.setdefault(one.path, one)
        return list(found.values())

    def _se(self) -> list[Candidate]:
        flow = self._traced("se").flow
        found: list[Candidate] = []
        inner = sorted(self.places, key=lambda place: -place.path.count("."))  # an SE block, not a container of one
        for place in inner:
            around = any(c.path.startswith(f"{place.path}.") for c in found)
            if not place.path or around or isinstance(place.module, ECA) or not gates_its_input(flow, place.path):
                continue
            dropped = parameters(place.module)
            found.append(
                self._here(
                    place,
                    action="replace",
                    tensor=f"{place.path}: input of the SE block",
                    keeps_output=False,
                    notes=(f"the SE block is replaced, its {dropped} parameters are dropped",),
                )
            )
        order = [place.path for place in self.places]
        return sorted(found, key=lambda candidate: order.index(candidate.path))

    # --- what a run told -----------------------------------------------------------------------------------------

    def _traced(self, kind: str) -> Trace:
        if self.run is None:
            raise UnsupportedModelError(
                f"model must come with example_inputs for where={kind!r}: an nnx network has no graph before it runs. "
                "Received: example_inputs=None. Pass an array of zeros of the right shape; 'conv_norm', 'conv', "
                "'norm' and a list of paths need none."
            )
        return self.run

    @cached_property
    def _branches(self) -> list[Branch]:
        return residual_branches(self._traced("residual").flow)

    def _branch(self, branch: Branch) -> Candidate:
        place = self.at.get(branch.path)
        if branch.reason or place is None:
            return Candidate(branch.path, tensor=branch.tensor, reason=branch.reason or "no module of its own")
        above = self.at.get(parent(place.path))
        if isinstance(place.module, ECA) and above is not None and is_gated(above.module):
            place = above
        notes = list(branch.notes)
        if gates_its_input(self._traced("residual").flow, place.path) and not isinstance(place.module, ECA):
            notes.append("after an SE block (where='se' replaces it)")
        return self._here(place, tensor=branch.tensor, notes=tuple(notes))

    def _end(self, block: Place) -> Candidate:
        """The last module of a block that has no add: what the block returns, before an activation."""
        flow = self._traced("block").flow
        text = f"{block.path}: output of a block without an add"
        tags = list(flow.tags("out", block.path))
        path = origin_path(flow, flow.nodes[tags[0]].ins[0]) if tags else ""
        if not path.startswith(f"{block.path}."):
            return self._here(block, tensor=text)
        return self._branch(Branch(path, text))

    # --- one site ------------------------------------------------------------------------------------------------

    def _here(self, place: Place, notes: tuple[str, ...] = (), unless: str = "", **more: Any) -> Candidate:
        channels, layout = self.channels(place)
        return Candidate(
            **{
                "path": place.path,
                "module": place.module,
                "module_type": base_class(place.module).__name__,
                "tensor": f"{place.path}: output",
                "channels": channels,
                "layout": layout or "channels_last",
                "aliases": place.aliases,
                "calls": None if self.run is None else self._calls(place.path),
                "reason": self._reason(place) or unless,
                "notes": (*_depthwise(place.module), *self._stacked(place), *notes),
                **more,
            }
        )

    def _calls(self, path: str) -> int:
        """Of a path and, for a shared module, of its other names: the tags have the first one alone."""
        return self.run.flow.calls(path) if self.run is not None else 0

    def channels(self, place: Place) -> tuple[int | None, str]:
        """Their number and the layout, as far as they are known."""
        if self.run is None:
            return static_channels(place.module), static_layout(place.module)
        seen = self.run.seen.get(place.path)
        shape = seen.outputs[0] if seen is not None else None
        if not shape:
            return static_channels(place.module), static_layout(place.module)
        axis = next((self.run.flow.nodes[n].axis for n in self.run.flow.tags("out", place.path)), None)
        first = len(shape) > 2 and (axis == 1 if axis is not None else static_layout(place.module) == "channels_first")
        return shape[1 if first else -1], "channels_first" if first else "channels_last"

    def _stacked(self, place: Place) -> tuple[str, ...]:
        stack = self.stack(place)
        return (f"stacked {'x'.join(map(str, stack))}: a kernel for each",) if stack else ()

    def _reason(self, place: Place) -> str:
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
        seen = self.run.seen.get(place.path)
        return self._unlike(place, seen.outputs) if seen is not None else "not called on these inputs"

    def _unlike(self, place: Place, shapes: list[Shape | None]) -> str:
        """What is wrong with a site's outputs."""
        shape = shapes[0]
        if shape is None:
            return "its output is not one array"
        if len(shape) < 3:
            return f"its output has rank {len(shape)}, which has no spatial axes"
        if self.ranks and len(shape) not in self.ranks:
            return f"its output has rank {len(shape)}, which no convolution's has (tokens, or no batch axis)"
        flow = self._traced("any").flow
        axis = next((flow.nodes[n].axis for n in flow.tags("out", place.path)), None)
        if axis is not None and axis not in (1, len(shape) - 1):
            return f"its channels are at axis {axis} of {shape}"
        if len({other and other[-1 if axis != 1 else 1] for other in shapes}) > 1:
            return "its calls have different numbers of channels"
        return ""


def _rank(conv: Place) -> int:
    return len(tuple(conv.module.kernel_size)) + 2


def _depthwise(module: Any) -> tuple[str, ...]:
    groups = getattr(module, "feature_group_count", 1) if isinstance(module, CONVS) else 1
    one = groups > 1 and groups == module.in_features
    return ("depthwise: the gate is usually after the projection",) if one else ()


def is_abstract(module: nnx.Module) -> bool:
    """Whether shapes stand for values somewhere."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(module)))
