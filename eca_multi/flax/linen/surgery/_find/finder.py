"""All sites of a linen network, for each `where`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from flax import linen as nn
from flax.core import meta

from eca_multi.flax._jaxpr.origins import origin_path, readers
from eca_multi.flax._jaxpr.residual import Branch, residual_branches
from eca_multi.flax._jaxpr.squeeze import gates_its_input
from eca_multi.flax._run import tokens, unfit
from eca_multi.flax._start import is_instance_norm, is_layer_scale, notes_at_start
from eca_multi.flax.linen.surgery._wrap import NAME, is_eca
from eca_multi.surgery.candidate import HAS_ECA, Candidate
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.surgery.reasons import NO_MODULE

from .call import Call
from .trace import CalledModule, trace
from .variables import below, count

CONVS = (nn.Conv, nn.ConvLocal, nn.ConvTranspose)
NORMS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm, nn.RMSNorm)
BEFORE_NORM = "before a norm, which takes out most of what a gate does: where='conv_norm' puts it after"


class Finder:
    """All candidates of one network, from an abstract call with example inputs."""

    def __init__(self, module: nn.Module, variables: Mapping[str, Any], call: Call) -> None:
        self.module, self.variables, self.call = module, variables, call
        self.called, self.flow = trace(module, variables, call)
        if self.called and all(record.is_mapped for record in self.called.values()):
            raise UnsupportedModelError(
                f"module must not be lifted by nn.map_variables as a whole. Received: {type(module).__name__}, whose "
                "function would map the kernels of ECA, too. Insert ECA in the class that it lifts, or write the "
                "transform around the layers that it is for."
            )
        self.convs = [record for record in self.called.values() if isinstance(record.module, CONVS)]
        self.norms = [record for record in self.called.values() if isinstance(record.module, NORMS)]
        self.ranks = {_rank(conv) for conv in self.convs if conv.shapes[0] and len(conv.shapes[0]) == _rank(conv)}
        self.branches = cache(lambda: residual_branches(self.flow))
        self.se_blocks = cache(self._se_blocks)

    def find(self, kind: str) -> list[Candidate]:
        """Return the candidates of one `where`, "any" for all modules, in the network's order."""
        return getattr(self, f"_{kind}")()

    def offers(self) -> dict[str, int]:
        kinds = ("residual", "block", "conv_norm", "conv", "norm", "se")
        return {kind: sum(c.is_open for c in self.find(kind)) for kind in kinds}

    # --- one method for each where -------------------------------------------------------------------------------

    def _any(self) -> list[Candidate]:
        return [self._candidate(record) for record in self.called.values()]

    def _conv(self) -> list[Candidate]:
        followed = self._norm_after()
        return [self._candidate(conv, notes=(BEFORE_NORM,) * (conv.path in followed)) for conv in self.convs]

    def _norm(self) -> list[Candidate]:
        return [self._candidate(norm) for norm in self.norms]

    def _conv_norm(self) -> list[Candidate]:
        followed = self._norm_after()
        conv_of = {followed.get(conv.path, conv.path): conv for conv in self.convs}
        return [
            self._candidate(conv)
            if path == conv.path
            else self._candidate(
                self.called[path], notes=self._depthwise(conv), tensor=f"{path}: output, after {conv.path}"
            )
            for path, conv in conv_of.items()
        ]

    def _residual(self) -> list[Candidate]:
        return [self._branch(branch) for branch in self.branches()]

    def _block(self) -> list[Candidate]:
        adds = {branch.owner: branch for branch in self.branches() if not branch.reason and branch.owner in self.called}
        kinds = {self.called[owner].kind for owner in adds}
        sites = {}
        for record in self.called.values():
            if record.kind in kinds:
                site = self._branch(adds[record.path]) if record.path in adds else self._last(record)
                sites[site.path] = site
        return list(sites.values())

    def _se(self) -> list[Candidate]:
        return [
            self._candidate(
                block,
                action="replace",
                tensor=f"{block.path}: input of the SE block",
                keeps_output=False,
                notes=(f"the SE block is replaced, its {count(self._params(block))} parameters are dropped",),
            )
            for block in self.se_blocks()
        ]

    # --- one site ------------------------------------------------------------------------------------------------

    def _candidate(self, record: CalledModule, notes: tuple[str, ...] = (), **fields: Any) -> Candidate:
        shape = record.shapes[0]
        axis = self._axis(record)
        first = axis == 1 and shape is not None and len(shape) > 2
        values: dict[str, Any] = {
            "path": record.path,
            "module": record.module,
            "module_type": record.kind,
            "tensor": f"{record.path}: output",
            "channels": shape[1 if first else -1] if shape else None,
            "layout": "channels_first" if first else "channels_last",
            "calls": self.flow.calls(record.path) if shape else len(record.shapes),
            "reason": self._reason(record, axis),
            "shape": shape or (),
            "axis_reason": tokens(record.path, record.shapes, self.ranks),
            "notes": (*self._depthwise(record), *self._at_start(record), *notes),
        }
        return Candidate(**(values | fields))

    def _branch(self, branch: Branch) -> Candidate:
        if branch.reason or branch.path not in self.called:
            reason = branch.reason or NO_MODULE.format(branch.path)
            return Candidate(branch.path, tensor=branch.tensor, reason=reason, what="add", line=branch.line)
        record, notes = self.called[branch.path], list(branch.notes)
        if record in self.se_blocks():
            notes.append("after an SE block (where='se' replaces it)")
        return self._candidate(record, tuple(notes), tensor=branch.tensor, line=branch.line)

    def _axis(self, record: CalledModule) -> int | None:
        """Return the channels' axis of a module's output; the flow holds the output with the axes of each vmap."""
        node = next((self.flow.nodes[n] for n in self.flow.tags("out", record.path)), None)
        if node is None or node.axis is None or record.shapes[0] is None:
            return None
        axis = node.axis - (len(node.shape) - len(record.shapes[0]))
        return axis if axis >= 0 else None

    def _last(self, block: CalledModule) -> Candidate:
        """Return the last module of a block without an add: what the block returns, before an activation."""
        tag = next(self.flow.tags("out", block.path), None)
        if tag is None:
            return self._candidate(block)
        path = origin_path(self.flow, self.flow.nodes[tag].ins[0])
        last = self.called.get(path) if path.startswith(f"{block.path}/") else None
        return self._candidate(last or block, tensor=f"{block.path}: output of a block without an add")

    def _reason(self, record: CalledModule, axis: int | None) -> str:
        """Return why ECA cannot gate a module; "" if it can."""
        shape = record.shapes[0]
        block = next((b.path for b in self.se_blocks() if record.path.startswith(f"{b.path}/")), "")
        if record.has_eca or is_eca(record.module):
            return HAS_ECA
        if record.is_mapped:
            return "inside nn.map_variables, whose function would map the kernel of its ECA, too"
        if shape is not None and len(shape) > 2 and isinstance(record.module, CONVS) and len(shape) != _rank(record):
            return f"its output has rank {len(shape)}, not {_rank(record)} with one batch axis"
        reason = unfit(record.shapes, self.ranks, axis)
        if reason:
            return reason
        if block:
            return f"inside of the SE block {block}"
        if any(NAME in below(tree, tuple(record.path.split("/"))) for tree in self.variables.values()):
            return f"the variables hold {NAME!r} there already, which the module does not call"
        return ""

    def _norm_after(self) -> dict[str, str]:
        """Return, by the convolution's path, the path of the norm that takes the convolution's unchanged output."""
        return readers(self.flow, {conv.path: conv.path for conv in self.convs}, [norm.path for norm in self.norms])

    def _se_blocks(self) -> list[CalledModule]:
        """Return the innermost modules that are SE blocks and no ECA."""
        records = self.called.values()
        gates = [r for r in records if not is_eca(r.module) and gates_its_input(self.flow, r.path)]
        return [gate for gate in gates if not any(other.path.startswith(f"{gate.path}/") for other in gates)]

    def _depthwise(self, record: CalledModule) -> tuple[str, ...]:
        kernel = self._params(record).get("kernel")
        groups = getattr(record.module, "feature_group_count", 1)
        if groups == 1 or kernel is None or meta.unbox(kernel).shape[-2] != 1:
            return ()
        return ("depthwise: the gate is usually after the projection",)

    def _at_start(self, record: CalledModule) -> tuple[str, ...]:
        module, shape, params = record.module, record.shapes[0], self._params(record)
        is_known = isinstance(module, (*CONVS, *NORMS, nn.Dense)) or is_layer_scale(record.kind, params)
        if not is_known or record.is_mapped:
            return ()
        is_instance = is_instance_norm(module, shape[-1] if shape else None, nn.InstanceNorm)
        has_bias = getattr(module, "use_bias", False)
        weights = {name: meta.unbox(value) for name, value in params.items()}
        return notes_at_start(weights, has_bias=has_bias, is_instance_norm=is_instance)

    def _params(self, record: CalledModule) -> Any:
        return below(self.variables.get("params", {}), tuple(record.path.split("/")))


def _rank(conv: CalledModule) -> int:
    return len(tuple(conv.module.kernel_size)) + 2
