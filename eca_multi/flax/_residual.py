"""Residual branches in a jaxpr: what goes into a residual add, by the convolutions behind its two operands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jax.extend.core import ClosedJaxpr

from ._ends import SILENT as SILENT
from ._ends import Ends, is_spread, size
from ._ends import sources as sources
from ._flow import ELEMENTWISE, MOVES, Flow, Node
from ._tags import tag as tag
from ._tags import tag_input as tag_input


@dataclass(frozen=True)
class Branch:
    """The end of a residual branch, or an add that was not understood.

    Args:
        path: Tag of the site whose output is the branch right before the add (before a dropout, a drop path, a layer
            scale or an activation, where one follows). Where there is a `reason`: of the add, as near as the tags say.
        tensor: In words.
        channels: Their number, at `axis` of `shape`.
        layout: "channels_last" or "channels_first".
        shape: Of the site's output.
        owner: Path of the block that holds the add.
        adds: How many adds of one run it goes into.
        notes: What to know about it.
        reason: Why it cannot be taken; "" where it can.
    """

    path: str
    tensor: str = ""
    channels: int | None = None
    layout: str = "channels_last"
    shape: tuple[int, ...] = ()
    owner: str = ""
    adds: int = 1
    notes: tuple[str, ...] = ()
    reason: str = ""


def residual_branches(jaxpr: ClosedJaxpr | Flow, inputs: Sequence[int] | None = None) -> list[Branch]:
    """Find the branch that goes into each residual add of a run.

    An add counts if both operands depend on the model's inputs, have the same shape of rank >= 3 and share what they
    come from; of the two, the branch is the one with more convolutions since then. A bias, the arithmetic of a norm
    and a sum inside of an activation have no convolution between the fork and the add.

    Args:
        jaxpr: Of a run with tags on the modules' outputs (`tag`), the more modules, the better: a block's own tag
            tells which block an add belongs to.
        inputs: Which of the jaxpr's arguments are the model's inputs; None for all, where the variables are closed
            over.

    Returns:
        A branch for each site, in the order of the run. An add that is not understood is in the list too, with a
        `reason`.
    """
    flow = jaxpr if isinstance(jaxpr, Flow) else Flow(jaxpr, inputs)
    found: dict[tuple[str, str], Branch] = {}
    for number, node in enumerate(flow.nodes):
        if not _is_sum(flow, node):
            continue
        branch = _branch(flow, number)
        if branch is not None:
            key = (branch.path, branch.reason)
            earlier = found.get(key)
            found[key] = branch if earlier is None else replace(earlier, adds=earlier.adds + branch.adds)
    return list(found.values())


def _is_sum(flow: Flow, node: Node) -> bool:
    if node.op not in ("add", "add_any") or len(node.ins) != 2 or len(node.shape) < 3 or not node.floating:
        return False
    operands = [flow.nodes[i] for i in node.ins]
    return all(o.data and o.shape == node.shape for o in operands) and not any(is_spread(flow, i) for i in node.ins)


def _branch(flow: Flow, number: int) -> Branch | None:
    first, second = (flow.nodes[i] for i in flow.nodes[number].ins)
    counts = [(a.convs & ~b.convs).bit_count() for a, b in ((first, second), (second, first))]
    if max(counts) == 0:
        dots = (first.dots ^ second.dots).bit_count()
        return _unclear(flow, number, "matrix products alone in its branch, no convolution") if dots else None
    if not first.sources & second.sources:
        return _unclear(flow, number, "its operands have nothing in common, so none is a shortcut")
    if counts[0] == counts[1]:
        return _unclear(flow, number, f"as many convolutions ({counts[0]}) behind both operands")
    operand, shortcut = flow.nodes[number].ins if counts[0] > counts[1] else flow.nodes[number].ins[::-1]
    ends = sources(flow, operand)
    same = [t for t in ends.tags if size(flow.nodes[t]) == size(flow.nodes[operand])]
    if len(same) != 1 or ends.other:
        names = sorted({_path(flow, t) for t in same})
        several = f"its branch is made of {', '.join(names)}" if names else "no module's output"
        reason = several if len(names) > 1 else "its branch ends in a function, not in a module"
        return _unclear(flow, number, reason)
    return _described(flow, same[0], number, operand, shortcut, ends)


def _described(flow: Flow, site: int, number: int, operand: int, shortcut: int, ends: Ends) -> Branch:
    node, path = flow.nodes[site], _path(flow, site)
    owner = _owner(flow, path, operand, shortcut)
    axis = len(node.shape) - 1 if node.axis is None else node.axis
    layout = "channels_first" if axis == 1 and axis != len(node.shape) - 1 else "channels_last"
    notes = [
        text
        for there, text in (
            (ends.activated, "an activation follows the gate, before the add"),
            (ends.gated, "another gate follows"),
            (ends.scaled, "a layer scale follows the gate"),
            (_goes_elsewhere(flow, site, number), "its output goes elsewhere too, and is gated there as well"),
        )
        if there
    ]
    reason = "" if axis in (1, len(node.shape) - 1) else f"its channels are at axis {axis} of {node.shape}"
    return Branch(
        path,
        tensor=f"{owner or 'model'}: residual branch of the add",
        channels=node.shape[axis],
        layout=layout,
        shape=node.shape,
        owner=owner,
        adds=flow.nodes[number].times,
        notes=tuple(notes),
        reason=reason,
    )


def _owner(flow: Flow, path: str, operand: int, shortcut: int) -> str:
    """The innermost module around the site that ends after the add: its own output is not part of the branch."""
    since = flow.nodes[operand].sources & ~flow.nodes[shortcut].sources
    ended = {_path(flow, n) for n in flow.tags() if _bit(flow, n) & since}
    owner = parent(path)
    while owner and owner in ended:
        owner = parent(owner)
    return owner


def _bit(flow: Flow, number: int) -> int:
    node = flow.nodes[number]
    return node.sources & ~flow.nodes[node.ins[0]].sources


def parent(path: str) -> str:
    """The path without its last part."""
    return re.split(r"[./](?=[^./]*$)", path)[0] if re.search(r"[./]", path) else ""


def _goes_elsewhere(flow: Flow, site: int, number: int) -> bool:
    """Whether the site's output is used by anything from which the add cannot be reached by elementwise operations."""
    reached, open_ = {site}, [site]
    while open_:
        for user in flow.users[open_.pop()]:
            if user == number or user in reached:
                continue
            node = flow.nodes[user]
            if node.op != "tag" and node.op not in ELEMENTWISE and node.op not in MOVES:
                if not _only_into(flow, user, number):
                    return True
                continue
            reached.add(user)
            open_.append(user)
    return False


def _only_into(flow: Flow, start: int, number: int) -> bool:
    """Whether a gate's pooling ends in the add as well."""
    return start in flow.behind(number)


def _unclear(flow: Flow, number: int, reason: str) -> Branch:
    """An add that is left, named after what its result is the output of, or else after its operands."""
    open_, seen = [number], {number}
    name = ""
    while open_ and not name:
        for user in flow.users[open_.pop(0)]:
            node = flow.nodes[user]
            if node.mark is not None and node.mark.kind == "out":
                name = node.mark.path
                break
            if user not in seen and (node.op in ELEMENTWISE or node.op in MOVES):
                seen.add(user)
                open_.append(user)
    if not name:
        near = [_path(flow, t) for i in flow.nodes[number].ins for t in sources(flow, i).tags]
        name = parent(near[0]) if near else ""
    return Branch(name or "model", tensor="residual add", shape=flow.nodes[number].shape, reason=f"an add: {reason}")


def _path(flow: Flow, number: int) -> str:
    mark = flow.nodes[number].mark
    return mark.path if mark else ""
