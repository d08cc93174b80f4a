"""Where a value of a run comes from, through operations that leave it in place: the last module behind a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ._flow import ELEMENTWISE, MOVES, Flow, Node


@dataclass(frozen=True)
class Ends:
    """Where a value comes from, when it is followed back through elementwise operations.

    Args:
        tags: Numbers of the tags that it comes from.
        other: Whether it comes from anything else that depends on the inputs (a pooling, a slice, ...).
        random, scaled, activated, gated: How often it is on the way multiplied by random numbers, or by a parameter,
            goes through an activation, or is multiplied by what depends on the inputs and has another shape.
        entered: These four numbers where it went into a module, by the module's path.
    """

    tags: frozenset[int] = frozenset()
    other: bool = False
    random: int = 0
    scaled: int = 0
    activated: int = 0
    gated: int = 0
    entered: Mapping[str, "Ends"] = field(default_factory=dict)

    def joined(self, more: "Ends") -> "Ends":
        numbers = {name: max(getattr(self, name), getattr(more, name)) for name in ("other", *FLAGS)}
        return Ends(self.tags | more.tags, entered={**self.entered, **more.entered}, **numbers)

    def since(self, path: str) -> "Ends":
        """What happened since it went into a module, or at all where that is not known."""
        before = self.entered.get(path, Ends())
        return Ends(**{name: getattr(self, name) - getattr(before, name) for name in FLAGS})


FLAGS = ("random", "scaled", "activated", "gated")
# Products, sums and choices are no activations; silent operations change no number.
LINEAR = frozenset(("mul", "div", "add", "add_any", "sub", "select_n", "neg", *MOVES))
SILENT = frozenset(
    (
        *("convert_element_type", "copy", "copy_p", "device_put", "join", "mesh_cast", "name", "optimization_barrier"),
        *("pvary", "reduce_precision", "reshard", "sharding_constraint", "stop_gradient"),
    )
)


def sources(flow: Flow, number: int) -> Ends:
    """Follow a value back through elementwise operations to tagged outputs.

    Of tags on one and the same tensor (a Sequential and its last layer, a dropout in evaluation mode) the innermost
    counts; a module that only draws random numbers for a product (dropout, drop path) is passed through.
    """
    known: dict[int, Ends] = flow.memo
    # A chain of elementwise operations may be longer than Python's stack allows to recur.
    stack = [number]
    while stack:
        top = stack[-1]
        if top in known:
            stack.pop()
            continue
        wanted = [i for i in _followed(flow, top) if i not in known]
        if wanted:
            stack += wanted
        else:
            known[stack.pop()] = _ends(flow, top, known)
    return known[number]


def _followed(flow: Flow, number: int) -> list[int]:
    """The operands that a value is followed to."""
    node = flow.nodes[number]
    if node.op != "tag" and node.op not in ELEMENTWISE and node.op not in MOVES:
        return []
    data = [i for i in node.ins if flow.nodes[i].data]
    return [i for i in data if size(flow.nodes[i]) == size(node) and not is_spread(flow, i)]


def is_spread(flow: Flow, number: int) -> bool:
    """Whether a value is a smaller one repeated, as a gate is before its product."""
    node = flow.nodes[number]
    return node.op == "broadcast_in_dim" and size(node) != size(flow.nodes[node.ins[0]])


def _ends(flow: Flow, number: int, known: dict[int, Ends]) -> Ends:
    node = flow.nodes[number]
    followed = _followed(flow, number)
    if not followed:
        return Ends(other=True) if node.data and node.mark is None else Ends(frozenset((number,)))
    behind = Ends()
    for i in followed:
        behind = behind.joined(known[i])
    if node.mark is not None:
        if node.mark.kind == "in":
            return replace(behind, entered={**behind.entered, node.mark.path: behind})
        return _through(flow, number, node.mark.path, behind)
    others = [flow.nodes[i] for i in node.ins if i not in followed]
    product = node.op in ("mul", "div")
    tensors = [o for o in others if len(o.shape) > 0]
    return replace(
        behind,
        random=behind.random + any(o.random and not o.data for o in others),
        scaled=behind.scaled + (product and any(not o.data and not o.random for o in tensors)),
        activated=behind.activated + (node.op not in LINEAR and node.op not in SILENT),
        gated=behind.gated + (product and any(o.data for o in others)),
    )


def _through(flow: Flow, number: int, path: str, behind: Ends) -> Ends:
    """Whether a tagged module is the end, or does nothing but pass its input on."""
    only = len(behind.tags) == 1 and not behind.other
    own = behind.since(path)
    changes = own.scaled or own.activated or own.gated
    if only and not changes and (own.random or _is_same(flow, number)):
        return behind
    return Ends(frozenset((number,)))


def _is_same(flow: Flow, number: int) -> bool:
    """Whether a tag is on the very tensor that another one is on, or that went into the module."""
    mark = flow.nodes[number].mark
    node = flow.nodes[flow.nodes[number].ins[0]]
    while node.op in SILENT or (node.mark is not None and node.mark.kind == "in"):
        if node.mark is not None and mark is not None and node.mark.path == mark.path:
            return True
        node = flow.nodes[node.ins[0]]
    return node.mark is not None


def size(node: Node) -> int:
    """The number of elements."""
    result = 1
    for n in node.shape:
        result *= n
    return result
