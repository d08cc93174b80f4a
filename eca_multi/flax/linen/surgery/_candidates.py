"""Where ECA could stand in a linen network, for each `where`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from eca_multi.flax._jaxpr.origins import origin_path
from eca_multi.flax._jaxpr.residual import Branch, residual_branches
from eca_multi.flax._jaxpr.squeeze import gates_its_input
from eca_multi.surgery.candidate import HAS_ECA, Candidate

from ._gated import NAME, is_eca
from ._inputs import Inputs
from ._trace import Seen, trace

CONVS = (nn.Conv, nn.ConvLocal, nn.ConvTranspose)
NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm, nn.RMSNorm)


class Finder:
    """All candidates of one network, from an abstract call with example inputs."""

    def __init__(self, module: nn.Module, variables: Mapping[str, Any], inputs: Inputs) -> None:
        self.module, self.variables, self.inputs = module, variables, inputs
        traced = trace(module, variables, inputs)
        self.seen, self.flow = traced.seen, traced.flow
        self.convs = [one for one in self.seen.values() if isinstance(one.module, CONVS)]
        self.norms = [one for one in self.seen.values() if isinstance(one.module, NORMS)]
        self.ranks = {_rank(one) for one in self.convs if one.shapes[0] and len(one.shapes[0]) == _rank(one)}
        self.branches = cache(lambda: residual_branches(self.flow))
        self.blocks = cache(self._se_blocks)

    def find(self, kind: str) -> list[Candidate]:
        """Return the candidates of one `where`, "any" for all modules, in the network's order."""
        return getattr(self, f"_{kind}")()

    def offers(self) -> dict[str, int]:
        """How many sites each `where` finds."""
        kinds = ("residual", "block", "conv_norm", "conv", "norm", "se")
        return {kind: sum(not c.reason for c in self.find(kind)) for kind in kinds}

    # --- one method for each where -------------------------------------------------------------------------------

    def _any(self) -> list[Candidate]:
        return [self._at(one) for one in self.seen.values()]

    def _conv(self) -> list[Candidate]:
        followed = self._norm_after()
        note = ("before a norm, which takes out most of what a gate does: where='conv_norm' puts it after",)
        return [self._at(one, notes=note if one.path in followed else ()) for one in self.convs]

    def _norm(self) -> list[Candidate]:
        return [self._at(one) for one in self.norms]

    def _conv_norm(self) -> list[Candidate]:
        followed = self._norm_after()
        sites = {followed.get(one.path, one.path): one for one in self.convs}
        return [
            self._at(self.seen[path], notes=self._depthwise(conv), tensor=f"{path}: output, after {conv.path}")
            if path != conv.path
            else self._at(conv)
            for path, conv in sites.items()
        ]

    def _residual(self) -> list[Candidate]:
        return [self._branch(branch) for branch in self.branches()]

    def _block(self) -> list[Candidate]:
        adds = {branch.owner: branch for branch in self.branches() if not branch.reason and branch.owner in self.seen}
        kinds = {self.seen[owner].kind for owner in adds}
        sites = {}
        for one in self.seen.values():
            if one.kind in kinds:
                found = self._branch(adds[one.path]) if one.path in adds else self._end(one)
                sites[found.path] = found
        return list(sites.values())

    def _se(self) -> list[Candidate]:
        return [
            self._at(
                one,
                action="replace",
                tensor=f"{one.path}: input of the SE block",
                keeps_output=False,
                notes=(f"the SE block is replaced, its {_size(self._params(one.path))} parameters are dropped",),
            )
            for one in self.blocks()
        ]

    # --- one site ------------------------------------------------------------------------------------------------

    def _at(self, one: Seen, notes: tuple[str, ...] = (), **more: Any) -> Candidate:
        shape = one.shapes[0]
        axis = next((self.flow.nodes[n].axis for n in self.flow.tags("out", one.path)), None)
        first = axis == 1 and shape is not None and len(shape) > 2
        return Candidate(
            **{
                "path": one.path,
                "module": one.module,
                "module_type": one.kind,
                "tensor": f"{one.path}: output",
                "channels": shape[1 if first else -1] if shape else None,
                "layout": "channels_first" if first else "channels_last",
                "calls": self.flow.calls(one.path) if shape else len(one.shapes),
                "reason": self._reason(one, axis),
                "notes": (*self._depthwise(one), *notes),
                **more,
            }
        )

    def _branch(self, branch: Branch) -> Candidate:
        if branch.reason or branch.path not in self.seen:
            return Candidate(branch.path, tensor=branch.tensor, reason=branch.reason or "no module of its own")
        one = self.seen[branch.path]
        notes = list(branch.notes)
        if one in self.blocks():
            notes.append("after an SE block (where='se' replaces it)")
        return self._at(one, tensor=branch.tensor, channels=branch.channels, layout=branch.layout, notes=tuple(notes))

    def _end(self, block: Seen) -> Candidate:
        """The last module of a block that has no add: what the block returns, before an activation."""
        tags = list(self.flow.tags("out", block.path))
        if not tags:
            return self._at(block)
        path = origin_path(self.flow, self.flow.nodes[tags[0]].ins[0])
        last = self.seen.get(path) if path.startswith(f"{block.path}/") else None
        return self._at(last or block, tensor=f"{block.path}: output of a block without an add")

    def _reason(self, one: Seen, axis: int | None) -> str:
        shape = one.shapes[0]
        block = self._excited_by(one.path)
        if one.has_eca or is_eca(one.module):
            return HAS_ECA
        if shape is None:
            return "its output is not one array"
        if len(shape) < 3:
            return f"its output has rank {len(shape)}, which has no spatial axes"
        if isinstance(one.module, CONVS) and len(shape) != _rank(one):
            return f"its output has rank {len(shape)}, not {_rank(one)} with one batch axis"
        if self.ranks and len(shape) not in self.ranks:
            return f"its output has rank {len(shape)}, which no convolution's has (tokens, or no batch axis)"
        if block:
            return f"inside of the SE block {block}"
        if axis is not None and axis not in (1, len(shape) - 1):
            return f"its channels are at axis {axis} of {shape}"
        if len({other and other[-1] for other in one.shapes}) > 1:
            return "its calls have different numbers of channels"
        if any(NAME in _down(tree, one.path) for tree in self.variables.values()):
            return f"the variables hold {NAME!r} there already, which the module does not call"
        return ""

    def _norm_after(self) -> dict[str, str]:
        """The norm that takes a convolution's output as it is, by the convolution's path."""
        convs = {one.path for one in self.convs}
        result: dict[str, str] = {}
        for norm in self.norms:
            for number in self.flow.tags("in", norm.path):
                path = origin_path(self.flow, number, unchanged=True)
                if path in convs:
                    result.setdefault(path, norm.path)
        return result

    def _se_blocks(self) -> list[Seen]:
        """The innermost modules that are SE blocks and no ECA, not what holds nothing but one."""
        fitting = [s for s in self.seen.values() if not is_eca(s.module) and gates_its_input(self.flow, s.path)]
        return [s for s in fitting if not any(other.path.startswith(f"{s.path}/") for other in fitting)]

    def _excited_by(self, path: str) -> str:
        return next((block.path for block in self.blocks() if path.startswith(f"{block.path}/")), "")

    def _depthwise(self, one: Seen) -> tuple[str, ...]:
        kernel = self._params(one.path).get("kernel")
        if getattr(one.module, "feature_group_count", 1) == 1 or kernel is None or meta.unbox(kernel).shape[-2] != 1:
            return ()
        return ("depthwise: the gate is usually after the projection",)

    def _params(self, path: str) -> Any:
        return _down(self.variables.get("params", {}), path)


def _rank(conv: Seen) -> int:
    return len(tuple(conv.module.kernel_size)) + 2


def _down(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            return {}
        tree = tree[key]
    return tree if isinstance(tree, Mapping) else {}


def _size(tree: Any) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
