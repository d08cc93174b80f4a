"""The norm that takes a convolution's output unchanged: by a traced run, or by the order of definition."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from eca_multi.flax._jaxpr.origins import origin_path
from eca_multi.flax.nnx.surgery._wrap import NAME
from eca_multi.surgery.candidate import Place

from .classes import CONVS, NORMS, static_channels
from .places import children, is_in_order
from .trace import Trace


def norm_after(
    convs: Sequence[Place], norms: Sequence[Place], model: nnx.Module, run: Trace | None
) -> dict[str, str | None]:
    """Return the norm's path by the convolution's: None if the norm cannot be told, no entry if there is no norm."""
    return _by_order(convs, norms, model) if run is None else _by_run(convs, norms, run)


def _by_run(convs: Sequence[Place], norms: Sequence[Place], run: Trace) -> dict[str, str | None]:
    paths = {conv.path for conv in convs}
    result: dict[str, str | None] = {}
    for norm in norms:
        for number in run.flow.tags("in", norm.path):
            path = origin_path(run.flow, number, unchanged=True)
            if path.removesuffix(f".{NAME}") in paths:  # a convolution that has ECA already
                path = path.removesuffix(f".{NAME}")
            if path in paths:
                result.setdefault(path, norm.path)
    return result


def _by_order(convs: Sequence[Place], norms: Sequence[Place], model: nnx.Module) -> dict[str, str | None]:
    """Take the module that is defined right behind the convolution, if the order of definition is kept."""
    holders = _holders(model)
    result: dict[str, str | None] = {}
    for conv in convs:
        if not conv.path:
            continue
        above = holders[id(conv.module)]
        siblings = [child for _, child in children(above) if isinstance(child, (*CONVS, *NORMS))]
        behind = siblings[siblings.index(conv.module) + 1 :]
        channels = static_channels(conv.module)
        fitting = [norm for norm in siblings if isinstance(norm, NORMS) and static_channels(norm) == channels]
        if not is_in_order(above) and fitting:
            result[conv.path] = None
        elif behind and behind[0] in fitting:
            result[conv.path] = next(norm.path for norm in norms if norm.module is behind[0])
    return result


def _holders(model: nnx.Module) -> dict[int, Any]:
    """Return the node that holds each module: a module, a list or a dict."""
    result: dict[int, Any] = {}
    for _, node in nnx.iter_graph(model):
        if nnx.graphlib.is_graph_node(node) or isinstance(node, list | tuple | dict):
            for _, child in children(node):
                result.setdefault(id(child), node)
    return result
