"""Residual branches in a jaxpr: of an add's two operands, the one with more convolutions behind it."""

from dataclasses import dataclass, field

from eca_multi.surgery.at_start import SCALED_TO_ZERO
from eca_multi.surgery.reasons import DIFFERENT_ORIGIN, NO_CONVOLUTION, NO_MODULE, PARALLEL

from .flow import ADDS, ELEMENTWISE, MOVES, Flow, Node
from .lines import line_of
from .origins import Origins, is_spread, origins

UNUSED = "its sum goes into no output of the network, so that a kernel would get no gradient"


@dataclass(frozen=True)
class Branch:
    """The end of a residual branch, or an add without a branch that can be told.

    `path` names the module whose output is the branch; only a dropout, a drop path, a layer scale or an activation may
    stand between that module and the add. With a `reason`, `path` names the module nearest to the add. `owner` is the
    path of the block that holds the add. The other fields are those of a `Candidate`.
    """

    path: str
    tensor: str = ""
    owner: str = ""
    notes: tuple[str, ...] = ()
    reason: str = ""
    line: str = field(default="", compare=False)


def residual_branches(flow: Flow) -> list[Branch]:
    """Find the branches that go into the residual adds of a run.

    An add is residual if both operands depend on the model's inputs, have the same shape of rank >= 3 and come from a
    common value; the branch is the operand with more convolutions since that value. A bias, the arithmetic of a norm
    and a sum inside of an activation have no convolution between the common value and the add. A chain of adds,
    x + a(x) + b(x), is one sum: each of its branches is taken, or none is.

    Return a branch for each site, in the order of the run, and one with a `reason` for each add without a clear branch.
    The tag of a block tells which block an add is in.
    """
    sums: dict[int, list[int]] = {}
    inner: set[int] = set()
    for number in range(len(flow.nodes) - 1, -1, -1):  # the last add of a chain comes first
        if number not in inner and _is_sum(flow, flow.nodes[number]):
            sums[number] = _terms(flow, number, inner)
    branches: dict[tuple[str, str, str], Branch] = {}
    for number in sorted(sums):
        terms = sums[number]
        found = _branch(flow, number) if len(terms) == 2 else _chain(flow, number, terms)
        if found and number not in flow.used:
            found = [_unclear(flow, number, UNUSED)]
        for branch in found:
            branches.setdefault((branch.path, branch.reason, branch.line if branch.reason else ""), branch)
    return list(branches.values())


def _is_sum(flow: Flow, node: Node) -> bool:
    if node.op not in ADDS or len(node.ins) != 2 or len(node.shape) < 3 or not node.floating:
        return False
    operands = [flow.nodes[i] for i in node.ins]
    fits = all(o.data and _is_of_shape(o, node.shape) for o in operands)
    return fits and not any(is_spread(flow, i) for i in node.ins)


def _is_of_shape(operand: Node, shape: tuple[int, ...]) -> bool:
    """Whether an operand has this shape, or 1 as the first axis of a map that all members of a `jax.vmap` share."""
    return operand.shape == shape or (len(shape) > 3 and operand.shape == (1, *shape[1:]))


def _terms(flow: Flow, number: int, inner: set[int]) -> list[int]:
    """Return what a chain of adds adds, in the chain's order; `inner` gains the chain's other adds."""
    terms, todo = [], [*reversed(flow.nodes[number].ins)]
    while todo:
        term = todo.pop()
        if _is_sum(flow, flow.nodes[term]) and len(flow.users[term]) == 1:
            inner.add(term)
            todo += reversed(flow.nodes[term].ins)
        else:
            terms.append(term)
    return terms


def _branch(flow: Flow, number: int) -> list[Branch]:
    """Return the branch of one add, or why it has none; nothing for the arithmetic of a norm or an activation."""
    first, second = (flow.nodes[i] for i in flow.nodes[number].ins)
    counts = [(a.convs & ~b.convs).bit_count() for a, b in ((first, second), (second, first))]
    if max(counts) == 0:
        dots = (first.dots ^ second.dots).bit_count()
        return [_unclear(flow, number, NO_CONVOLUTION)] if dots else []
    if not first.sources & second.sources:
        return [_unclear(flow, number, DIFFERENT_ORIGIN)]
    if counts[0] == counts[1]:
        return [_unclear(flow, number, PARALLEL)]
    operand, shortcut = flow.nodes[number].ins if counts[0] > counts[1] else flow.nodes[number].ins[::-1]
    return [_site(flow, number, operand, shortcut)]


def _chain(flow: Flow, number: int, terms: list[int]) -> list[Branch]:
    """Return the branches of a sum of three terms or more: those that are made of the one term that is the shortcut.

    A sum without such a term has parallel branches alone (WaveNet's skip sums): none is more a branch than another.
    """
    convs = [flow.nodes[term].convs for term in terms]
    if all(one == convs[0] for one in convs):
        dots = any(flow.nodes[term].dots != flow.nodes[terms[0]].dots for term in terms)
        return [_unclear(flow, number, NO_CONVOLUTION)] if dots else []
    above = {term: [one for one in terms if flow.nodes[one].convs & ~flow.nodes[term].convs] for term in terms}
    for shortcut in sorted(terms, key=lambda term: -len(above[term])):  # the one that most of the others are made of
        branches = above[shortcut]
        if branches and all(shortcut in flow.behind(term) for term in branches):
            found = [_site(flow, number, term, shortcut) for term in branches]
            return [one for one in found if one.reason] or found
    return [_unclear(flow, number, PARALLEL)]


def _site(flow: Flow, number: int, operand: int, shortcut: int) -> Branch:
    behind = origins(flow, operand)
    sites = [tag for tag in behind.tags if flow.nodes[tag].size == flow.nodes[operand].size]
    if len(sites) != 1 or behind.other:
        names = sorted({flow.path(site) for site in sites})
        return _unclear(flow, number, NO_MODULE.format(", ".join(names) if len(names) > 1 else "a function"))
    return _described(flow, sites[0], number, operand, shortcut, behind)


def _described(flow: Flow, site: int, number: int, operand: int, shortcut: int, behind: Origins) -> Branch:
    path = flow.path(site)
    owner = _owner(flow, path, operand, shortcut)
    notes = [
        text
        for happens, text in (
            (behind.activated, "an activation follows the gate, before the add"),
            (behind.gated, "another gate follows"),
            (behind.scaled, "a layer scale follows the gate"),
            (behind.zeroed, SCALED_TO_ZERO),
            (_goes_elsewhere(flow, site, number), "its output goes elsewhere too, and is gated there as well"),
        )
        if happens
    ]
    tensor = f"{owner or 'model'}: residual branch of the add"
    return Branch(path, tensor=tensor, owner=owner, notes=tuple(notes), line=line_of(flow.nodes[number].source))


def _owner(flow: Flow, path: str, operand: int, shortcut: int) -> str:
    """Return the innermost module around the site that ends after the add: its output is not part of the branch."""
    since = flow.nodes[operand].sources & ~flow.nodes[shortcut].sources
    ended = {flow.path(n) for n in flow.tags() if _bit(flow, n) & since}
    owner = parent(path)
    while owner and owner in ended:
        owner = parent(owner)
    return owner


def _bit(flow: Flow, number: int) -> int:
    """Return the bit of a tag in `Node.sources`."""
    node = flow.nodes[number]
    return node.sources & ~flow.nodes[node.ins[0]].sources


def parent(path: str) -> str:
    return path[: max(path.rfind("."), path.rfind("/"), 0)]


def _goes_elsewhere(flow: Flow, site: int, number: int) -> bool:
    """Whether the site's output goes into a value other than the add, and not into a gate that the add gets too."""
    reached, todo = {site}, [site]
    while todo:
        for user in flow.users[todo.pop()]:
            if user == number or user in reached:
                continue
            op = flow.nodes[user].op
            if op == "tag" or op in ELEMENTWISE or op in MOVES:
                reached.add(user)
                todo.append(user)
            elif user not in flow.behind(number):
                return True
    return False


def _unclear(flow: Flow, number: int, reason: str) -> Branch:
    """Return an add without a branch, named after the module that returns the sum, else after the operands' block."""
    todo, reached = [number], {number}
    name = ""
    while todo and not name:
        for user in flow.users[todo.pop(0)]:
            node = flow.nodes[user]
            if node.mark is not None and node.mark.kind == "out":
                name = node.mark.path
                break
            if user not in reached and (node.op in ELEMENTWISE or node.op in MOVES):
                reached.add(user)
                todo.append(user)
    if not name:
        near = [flow.path(tag) for i in flow.nodes[number].ins for tag in origins(flow, i).tags]
        name = parent(near[0]) if near else ""
    return Branch(name, tensor="residual add", reason=reason, line=line_of(flow.nodes[number].source))
