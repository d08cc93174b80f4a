"""The places in a torch network where ECA could stand, for each kind of `where`."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.torch.layers import ECA

from ._channels import channels_of, keeps_channels, layout_of, rank_reason
from ._flow import Flow, Untraceable, flow_of
from ._gated import Gated
from ._modules import CONVS, NORMS, Found, base_of, convolutions, is_container, is_passing, walk
from ._observe import Run, observe
from ._residual import End, branches, end_of, last_of, may_hold_branches
from ._squeeze import is_squeeze, squeezed_channels
from ._trees import join, parent_of

SLOTS = ("se", "attn")  # what timm's blocks call the place of an attention layer


class Finder:
    """Looks for candidates in one network; what is costly is done once."""

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.found = walk(model)
        self.at = {path: one for one in self.found for path in (one.path, *one.aliases)}
        self.flows: dict[str, Flow | Untraceable] = {}

    @cached_property
    def run(self) -> Run | None:
        """What a run shows, where there are example inputs."""
        if self.example_inputs is None:
            return None
        untraceable = {one.path: base_of(one.module) for one in self.found if self._is_untraceable_block(one)}
        return observe(self.model, self.example_inputs, {one.path: one.module for one in self.found}, untraceable)

    def find(self, kind: str) -> list[Candidate]:
        """Return all candidates of a kind, in the network's order."""
        finders: dict[str, Callable[[], list[Candidate]]] = {
            "residual": self._residual,
            "block": self._block,
            "conv_norm": self._conv_norm,
            "conv": lambda: self._of_class(CONVS),
            "norm": lambda: self._of_class(NORMS),
            "se": self._squeezes,
            "slot": self._slots,
            "any": lambda: [self.candidate(one) for one in self.found if one.path],
        }
        unique: dict[str, Candidate] = {}
        for candidate in finders[kind]():
            unique.setdefault(candidate.path, candidate)
        return list(unique.values())

    def offers(self) -> Mapping[str, int]:
        """How many sites each kind has."""
        result = {}
        for kind in ("residual", "conv_norm", "conv", "norm", "se"):
            try:
                result[kind] = sum(not one.reason for one in self.find(kind))
            except (NoSiteError, UnsupportedModelError):
                result[kind] = 0
        return result

    def candidate(self, one: Found, tensor: str = "", end: End | None = None, **more: Any) -> Candidate:
        """Describe a module as a site."""
        module = one.module
        base = base_of(module)
        shape = self.run.shapes.get(one.path) if self.run else None
        notes = list(end.notes if end else ())
        channels = self.channels(one)
        if channels is None and shape is not None and len(shape) > 2:
            channels = shape[1]
        layout = layout_of(base, channels, shape)
        if end is not None and end.layout and shape is None:
            layout = end.layout
        reason = ""
        if isinstance(module, Gated | ECA):
            reason = HAS_ECA
        elif is_container(module):
            inner = last_of(module)[0]
            reason = f"a container; name its last module, {join(one.path, inner)}" if inner else "a container"
        elif self.run and not self.run.calls.get(one.path):
            reason = "never called on example_inputs"
        elif self.run and shape is None:
            reason = "its output is no single tensor"
        elif not (end is not None and end.layout and shape is None):
            reason = rank_reason(base, shape, layout)
        return Candidate(
            path=one.path,
            module=module,
            module_type=type(base).__name__,
            tensor=tensor or f"the output of {one.path}",
            channels=channels,
            layout=layout,
            aliases=one.aliases,
            calls=self.run.calls.get(one.path) if self.run else None,
            notes=(*notes, *more.pop("notes", ())),
            reason=more.pop("reason", "") or reason,
            **more,
        )

    def channels(self, one: Found) -> int | None:
        """What a module says, or for one made of others the one that its output comes from."""
        base = base_of(one.module)
        known = channels_of(base)
        if known is None and keeps_channels(base):
            return self._channels_before(one)
        if known is None and any(True for _ in base.children()) and not isinstance(base, ECA):
            flow = self.flow(one.path)
            if isinstance(flow, Flow) and is_squeeze(flow, base):
                return squeezed_channels(base)
            if isinstance(flow, Flow) and len(flow.outputs) == 1:
                end = end_of(flow, base, _behind(flow, base, flow.outputs[0]))
                if end.path and not end.layout:
                    known = self.channels(self.at[join(one.path, end.path)])
        return known

    def _channels_before(self, one: Found) -> int | None:
        """What goes into a module that has as many channels as its input, as far as the data flow shows it."""
        above, name = parent_of(one.path)
        flow = self.flow(above)
        if isinstance(flow, Flow):
            numbers = [i for i, step in enumerate(flow.steps) if step.kind == "module" and step.name == name]
            if numbers and len(flow.steps[numbers[0]].inputs) == 1:
                end = end_of(flow, base_of(self.at[above].module), flow.steps[numbers[0]].inputs[0])
                if end.path and not end.layout:
                    return self.channels(self.at[join(above, end.path)])
        return None

    # --- each kind

    def _of_class(self, kinds: tuple[type[nn.Module], ...]) -> list[Candidate]:
        result = []
        for one in self.found:
            base = base_of(one.module)
            if isinstance(base, kinds) and one.path:
                result.append(self.candidate(one, notes=self._position(one, base)))
        return result

    def _position(self, one: Found, base: nn.Module) -> tuple[str, ...]:
        if not isinstance(base, CONVS):
            return ()
        notes = []
        if self._norm_behind(one) is not None:
            notes.append(
                "before a norm, which takes a constant gate out again and leaves it nearly no gradient: conv_norm"
            )
        if base.groups > 1 and base.groups == base.in_channels:
            notes.append("depthwise: the gate after the projection is usual")
        return tuple(notes)

    def _conv_norm(self) -> list[Candidate]:
        result = []
        for one in self.found:
            base = base_of(one.module)
            if isinstance(base, CONVS) and one.path:
                norm = self._norm_behind(one)
                site = norm or one
                result.append(self.candidate(site, f"the output of {site.path}, behind {one.path}"))
        return result

    def _norm_behind(self, one: Found) -> Found | None:
        """The norm that takes the output of a convolution and of nothing else."""
        above, name = parent_of(one.path)
        flow = self.flow(above)
        if isinstance(flow, Untraceable):
            return self._next_sibling(above, name)
        for number, step in enumerate(flow.steps):
            if step.kind == "module" and step.name == name:
                users = flow.users(number)
                if len(users) == 1 and flow.steps[users[0]].kind == "module":
                    behind = self.at[join(above, flow.steps[users[0]].name)]
                    base = base_of(behind.module)
                    return behind if isinstance(base, NORMS) else None
        return None

    def _next_sibling(self, above: str, name: str) -> Found | None:
        """By the order of definition, where the flow is not known."""
        children = [
            child for child in self.at[above].module._modules if self.at[above].module._modules[child] is not None
        ]
        first, _, rest = name.partition(".")
        behind = children[children.index(first) + 1 :] if first in children and not rest else []
        if not behind:
            return None
        site = self.at[join(above, behind[0])]
        base = base_of(site.module)
        conv = self.at[join(above, name)].module
        fits = isinstance(base, NORMS) and channels_of(base) == channels_of(conv)
        return site if fits else None

    def _residual(self) -> list[Candidate]:
        result = []
        for one, flow in self._blocks():
            for end in branches(flow, base_of(one.module)):
                result.append(self._at_end(one, end, "residual branch of the add", flow))
        self._require_flows(result)
        return result

    def _block(self) -> list[Candidate]:
        blocks = [(one, flow) for one, flow in self._blocks()]
        kinds = {
            type(base_of(one.module)) for one, flow in blocks if one.path and _has_branch(flow, base_of(one.module))
        }
        result = []
        for one, flow in blocks:
            if type(base_of(one.module)) not in kinds:
                continue
            ends = [end for end in branches(flow, base_of(one.module)) if end.path]
            text = "residual branch of the add"
            if not ends:
                ends, text = (
                    [end_of(flow, base_of(one.module), number) for number in flow.outputs],
                    "the block's output",
                )
            result += [self._at_end(one, end, text, flow) for end in ends]
        self._require_flows(result)
        return result

    def _at_end(self, block: Found, end: End, text: str, flow: Flow) -> Candidate:
        name = block.path or "the network"
        if not end.path:
            return Candidate(
                name, module_type=type(base_of(block.module)).__name__, tensor=f"{name}: {text}", reason=end.reason
            )
        notes = ("found by a run",) if flow.by_run else ()
        return self.candidate(self.at[join(block.path, end.path)], f"{name}: {text}", end, notes=notes)

    def _blocks(self) -> list[tuple[Found, Flow]]:
        result = []
        for one in self.found:
            if is_block(one):
                flow = self.flow(one.path)
                if isinstance(flow, Untraceable) and self.run and one.path in self.run.flows:
                    flow = self.run.flows[one.path]
                if isinstance(flow, Flow):
                    result.append((one, flow))
        return result

    def _require_flows(self, found: list[Candidate]) -> None:
        """A network whose blocks cannot be traced is no network without blocks."""
        unknown = [path for path, flow in self.flows.items() if isinstance(flow, Untraceable)]
        if found or not unknown or self.run is not None:
            return
        first = unknown[0] or "the network"
        raise UnsupportedModelError(
            f"model must be traceable, or come with example_inputs. Received: {type(self.model).__name__}, where "
            f"torch.fx cannot trace {first} ({self.flows[unknown[0]]}). Pass example_inputs, or list the modules."
        )

    def flow(self, path: str) -> "Flow | Untraceable":
        if path not in self.flows:
            try:
                self.flows[path] = flow_of(base_of(self.at[path].module))
            except Untraceable as error:
                self.flows[path] = error
        return self.flows[path]

    def _is_untraceable_block(self, one: Found) -> bool:
        return is_block(one) and isinstance(self.flow(one.path), Untraceable)

    def _squeezes(self) -> list[Candidate]:
        result = []
        for one in self.found:
            if not one.path or is_container(one.module) or not any(one.module.children()):
                continue
            flow = self.flow(one.path)
            if isinstance(flow, Flow) and is_squeeze(flow, one.module):
                dropped = sum(parameter.numel() for parameter in one.module.parameters())
                result.append(
                    Candidate(
                        path=one.path,
                        module=one.module,
                        action="replace",
                        module_type=type(one.module).__name__,
                        tensor="the input of the SE block",
                        channels=squeezed_channels(one.module),
                        aliases=one.aliases,
                        calls=self.run.calls.get(one.path) if self.run else None,
                        keeps_output=False,
                        notes=(f"replaces an SE block: its {dropped} parameters are dropped",),
                    )
                )
        return result + [one for one in self._present("replace")]

    def _slots(self) -> list[Candidate]:
        result = []
        for block in self.found:
            for name in SLOTS:
                value = getattr(block.module, name, self) if isinstance(block.module, nn.Module) else self
                path = join(block.path, name)
                if isinstance(value, ECA):
                    result.append(self.candidate(self.at[path]))
                elif value is None or type(value) is nn.Identity:
                    result.append(self._slot(block, path, name))
        return result

    def _slot(self, block: Found, path: str, name: str) -> Candidate:
        """An empty slot: its channels are those of what stands before it, or of the branch that it closes."""
        flow = self.flow(block.path)
        site: End | None = None
        if isinstance(flow, Flow):
            numbers = [i for i, step in enumerate(flow.steps) if step.kind == "module" and step.name == name]
            if numbers and flow.steps[numbers[0]].inputs:
                site = end_of(flow, block.module, _behind(flow, block.module, flow.steps[numbers[0]].inputs[0]))
            else:
                site = next((end for end in branches(flow, block.module) if end.path), None)
        channels = None
        if site is not None and site.path:
            channels = self.channels(self.at[join(block.path, site.path)])
        kind = type(block.module).__name__
        return Candidate(
            path, block.module, "fill", f"slot of {kind}", f"{block.path}: where the block calls {name}", channels
        )

    def _present(self, action: str) -> list[Candidate]:
        return [
            self.candidate(one, action=action)
            for one in self.found
            if isinstance(one.module, ECA) and getattr(one.module, "inserted", "") == action
        ]


def is_block(one: Found) -> bool:
    module = base_of(one.module)
    return not isinstance(module, ECA) and may_hold_branches(module) and any(True for _ in module.children())


def _has_branch(flow: Flow, block: nn.Module) -> bool:
    return any(end.path for end in branches(flow, block))


def _behind(flow: Flow, block: nn.Module, number: int) -> int:
    """Step back over activations: they have no channels of their own."""
    while True:
        step = flow.steps[number]
        module = block.get_submodule(step.name) if step.kind == "module" else None
        blank = module is not None and not any(True for _ in module.parameters()) and not is_passing(module)
        if not blank or len(step.inputs) != 1 or convolutions(block) == 0:
            return number
        number = step.inputs[0]
