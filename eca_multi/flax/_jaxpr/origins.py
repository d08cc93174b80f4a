"""The modules that a value comes from, through operations that leave each number at its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from eca_multi.flax._start import is_zero

from .flow import ELEMENTWISE, MOVES, SILENT, Flow

COUNTS = ("random", "scaled", "zeroed", "activated", "gated")
# Products, sums and choices are no activations.
LINEAR = frozenset(("mul", "div", "add", "add_any", "sub", "select_n", "neg", *MOVES))


@dataclass(frozen=True)
class Origins:
    """The tags that a value comes from, and what happened to the value on the way from them.

    Args:
        other: Whether the value also comes from something without a tag that depends on the inputs (a pooling, ...).
        random, scaled, gated: How often the value was multiplied by random numbers, by a parameter, and by a value that
            depends on the inputs and has another shape.
        zeroed: How often the value was multiplied by a parameter of zeros.
        activated: How often the value went through an activation.
        entered: These counts at the entry of each module that the value went into, by the module's path.
    """

    tags: frozenset[int] = frozenset()
    other: bool = False
    random: int = 0
    scaled: int = 0
    zeroed: int = 0
    activated: int = 0
    gated: int = 0
    entered: Mapping[str, "Origins"] = field(default_factory=dict)

    def joined(self, more: "Origins") -> "Origins":
        counts = {name: max(getattr(self, name), getattr(more, name)) for name in ("other", *COUNTS)}
        return Origins(self.tags | more.tags, entered={**self.entered, **more.entered}, **counts)

    def since(self, path: str) -> "Origins":
        """Return the counts since the value entered a module; all counts where it entered none of that path."""
        before = self.entered.get(path, Origins())
        return Origins(**{name: getattr(self, name) - getattr(before, name) for name in COUNTS})


def origins(flow: Flow, number: int) -> Origins:
    """Follow a value back through elementwise operations to the outputs of modules.

    Several modules may return one tensor (a Sequential and its last layer, a dropout in evaluation mode): the innermost
    counts. The value is followed through a module that multiplies by random numbers alone (dropout, drop path).
    """
    known: dict[int, Origins] = flow.memo
    stack = [number]  # a chain of elementwise operations may be longer than Python's stack allows to recur
    while stack:
        top = stack[-1]
        if top in known:
            stack.pop()
            continue
        unknown = [i for i in _followed(flow, top) if i not in known]
        if unknown:
            stack += unknown
        else:
            known[stack.pop()] = _from_operands(flow, top, known)
    return known[number]


def origin_path(flow: Flow, number: int, *, unchanged: bool = False) -> str:
    """Return the path of the one module that a value comes from; "" where there is no such module.

    With `unchanged`, an activation or a gate between the module and the value excludes the module.
    """
    behind = origins(flow, number)
    if len(behind.tags) != 1 or behind.other or (unchanged and (behind.activated or behind.gated)):
        return ""
    return flow.path(next(iter(behind.tags)))


def readers(flow: Flow, makers: Mapping[str, str], modules: Iterable[str]) -> dict[str, str]:
    """Return, by maker, the path of the first of the modules that takes the unchanged output of the maker.

    `makers` names the maker behind the path of each module that may have made the output.
    """
    result: dict[str, str] = {}
    for module in modules:
        for number in flow.tags("in", module):
            path = origin_path(flow, number, unchanged=True)
            if path in makers:
                result.setdefault(makers[path], module)
    return result


def is_spread(flow: Flow, number: int) -> bool:
    """Whether a value is a smaller one repeated, as a gate is before its product."""
    node = flow.nodes[number]
    return node.op == "broadcast_in_dim" and node.size != flow.nodes[node.ins[0]].size


def _followed(flow: Flow, number: int) -> list[int]:
    """Return the operands in which to look for the origins of a value."""
    node = flow.nodes[number]
    if node.op != "tag" and node.op not in ELEMENTWISE and node.op not in MOVES:
        return []
    data = [i for i in node.ins if flow.nodes[i].data]
    return [i for i in data if flow.nodes[i].size == node.size and not is_spread(flow, i)]


def _from_operands(flow: Flow, number: int, known: Mapping[int, Origins]) -> Origins:
    """Return the origins of a value from the origins of its operands."""
    node = flow.nodes[number]
    followed = _followed(flow, number)
    if not followed:
        return Origins(other=True) if node.data and node.mark is None else Origins(frozenset((number,)))
    behind = Origins()
    for i in followed:
        behind = behind.joined(known[i])
    if node.mark is not None:
        if node.mark.kind == "in":
            return replace(behind, entered={**behind.entered, node.mark.path: behind})
        return behind if _is_passed_on(flow, number, behind) else Origins(frozenset((number,)))
    left = [i for i in node.ins if i not in followed]
    others = [flow.nodes[i] for i in left]
    product = node.op in ("mul", "div")
    tensors = [other for other in others if other.shape]
    return replace(
        behind,
        random=behind.random + any(other.random and not other.data for other in others),
        scaled=behind.scaled + (product and any(not t.data and not t.random for t in tensors)),
        zeroed=behind.zeroed + (node.op == "mul" and any(is_zero(flow.weight(i)) for i in left)),
        activated=behind.activated + (node.op not in LINEAR and node.op not in SILENT),
        gated=behind.gated + (product and any(other.data for other in others)),
    )


def _is_passed_on(flow: Flow, number: int, behind: Origins) -> bool:
    """Whether a module returns its input, or its input times random numbers."""
    if len(behind.tags) != 1 or behind.other:
        return False
    inside = behind.since(flow.path(number))
    changes = inside.scaled or inside.activated or inside.gated
    return not changes and (bool(inside.random) or _is_tagged_twice(flow, number))


def _is_tagged_twice(flow: Flow, number: int) -> bool:
    """Whether the tensor of a tag has another tag already, or is what went into the module."""
    path = flow.path(number)
    node = flow.nodes[flow.nodes[number].ins[0]]
    while node.op in SILENT or (node.mark is not None and node.mark.kind == "in"):
        if node.mark is not None and node.mark.path == path:
            return True
        node = flow.nodes[node.ins[0]]
    return node.mark is not None
