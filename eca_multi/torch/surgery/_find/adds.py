"""The adds in a block's forward: each with the end of its residual branch, or with the reason why it has none."""

from collections.abc import Iterator
from dataclasses import dataclass

from eca_multi.surgery.reasons import (
    DIFFERENT_ORIGIN,
    GATED_COPY,
    MERGE,
    NO_CONVOLUTION,
    PARALLEL,
    PARTIAL,
)

from .block import PRODUCTS, Block
from .classes import NORMS, has_parameters, is_passing, is_pool, is_scale
from .flow import ADDS
from .residual import SCALES, Source, source_of


@dataclass(frozen=True)
class Add:
    """An add, its line of code, and where its branch ends; the source has a `reason` if there is no branch to take."""

    source: Source
    line: str = ""


def adds(block: Block) -> list[Add]:
    """Return the adds of two tensors that both depend on the block's input, in the order of the forward."""
    parallel: set[int] = set()
    shortcuts: dict[int, int] = {}
    found = []
    for number, first, second, line in _operands(block):
        chained = _next_branch(block, first, second, shortcuts)
        branch = _branch(block, first, second, parallel) if chained is None else chained
        if branch == PARALLEL:
            parallel.add(number)
        elif not isinstance(branch, str):
            shortcut = _summed(block, first if branch == second else second)
            shortcuts[number] = shortcuts.get(shortcut, shortcut)
        source = Source(reason=branch) if isinstance(branch, str) else source_of(block, branch)
        found.append(Add(source, line))
    return found


def _operands(block: Block) -> Iterator[tuple[int, int, int, str]]:
    for number, step in enumerate(block.flow.steps):
        inputs = block.inputs(number)
        if step.is_inside or len(set(inputs)) != 2:
            continue
        if step.kind == "function" and step.name in ADDS:
            yield number, inputs[0], inputs[1], step.line
        elif step.kind == "module" and (inner := block.inner(step.name)) and (line := adder_line(inner)) is not None:
            yield number, inputs[0], inputs[1], line


def adder_line(block: Block) -> str | None:
    """Return the line where a module without convolutions adds its two inputs; None for any other module."""
    if block.convolutions(range(len(block.flow.steps))):
        return None
    for number, step in enumerate(block.flow.steps):
        operands = {_summed(block, i) for i in block.inputs(number)}
        is_add = step.kind == "function" and step.name in ADDS and len(operands) == 2
        if is_add and all(block.step(i).kind == "input" for i in operands):
            return step.line
    return None


def _summed(block: Block, number: int) -> int:
    """Step back over passing modules and over the 0 with which Python's sum begins."""
    number = block.before_passing(number)
    while block.step(number).name in ADDS and len(block.inputs(number)) == 1:
        number = block.before_passing(block.inputs(number)[0])
    return number


def _branch(block: Block, first: int, second: int, parallel: set[int]) -> int | str:
    """Return the operand that is the branch, the one with more convolutions since the two parted; else a reason."""
    flow = block.flow
    since = flow.before(first) - flow.before(second), flow.before(second) - flow.before(first)
    counts = [block.convolutions(steps) for steps in since]
    if block.upsamples(first, since[0]) != block.upsamples(second, since[1]):
        return MERGE
    if counts == [0, 0]:
        return NO_CONVOLUTION
    if any(_carried(block, operand) in parallel for operand in (first, second)):
        return PARALLEL
    branch, shortcut = (first, second) if counts[0] > counts[1] else (second, first)
    own = since if counts[0] > counts[1] else since[::-1]
    origin = _origin(block, shortcut, own[1])
    is_input = block.step(origin).kind == "input"
    if not flow.before(first) & flow.before(second) & block.data:
        return branch if is_input and counts[0] != counts[1] else DIFFERENT_ORIGIN
    if _is_gated_copy(block, branch, shortcut):
        return GATED_COPY
    if counts[0] == counts[1] or (origin in own[1] and _is_parallel(block, own[1], counts)):
        return PARALLEL
    pieces = _begins(block, own)
    if pieces:
        return MERGE if any(map(block.is_part, pieces)) else PARTIAL
    return branch


def _next_branch(block: Block, first: int, second: int, shortcuts: dict[int, int]) -> int | None:
    """Return the next branch in a chain of adds, x + a(x) + b(x), where b(x) is a branch beside x as a(x) is."""
    for operand, branch in ((first, second), (second, first)):
        total = block.before_passing(operand)
        if total in shortcuts and len(block.flow.users(total)) == 1:
            shortcut = shortcuts[total]
            if shortcut in block.flow.before(branch) and _branch(block, shortcut, branch, set()) == branch:
                return branch
    return None


def _carried(block: Block, number: int) -> int:
    """Step back over dropouts and products with constants."""
    while True:
        number = block.before_passing(number)
        if block.step(number).name not in SCALES or len(block.inputs(number)) != 1:
            return number
        number = block.inputs(number)[0]


def _origin(block: Block, shortcut: int, own: set[int]) -> int:
    """Step back over what a shortcut does to its map, as far as the branch has no part in it."""
    while shortcut in own and block.is_reshaped(shortcut):
        shortcut = block.inputs(shortcut)[0]
    return shortcut


def _is_gated_copy(block: Block, branch: int, shortcut: int) -> bool:
    """x + x * gate(x), or x * gate(x) + x * another(x)."""
    factors, others = _factors(block, branch), _factors(block, shortcut)
    if block.before_passing(shortcut) in factors:
        return True
    gated = [[i for i in one if not block.is_gate(i)] for one in (factors, others)]
    return len(gated[0]) == 1 and gated[0] == gated[1]


def _factors(block: Block, number: int) -> list[int]:
    """Return the two tensors that a product multiplies; none for another step."""
    product = _carried(block, number)
    is_product = block.step(product).kind == "function" and block.step(product).name in PRODUCTS
    factors = [block.before_passing(i) for i in block.inputs(product)]
    return factors if is_product and len(factors) == 2 else []


def _is_parallel(block: Block, shortcut: set[int], counts: list[int]) -> bool:
    """Whether a shortcut without a convolution is a branch too: a norm beside one convolution, or layers that mix."""
    if min(counts) > 0:
        return False
    modules = [module for module in map(block.of, shortcut) if module is not None and not is_passing(module)]
    layers = [module for module in modules if not is_pool(module) and not is_scale(module) and has_parameters(module)]
    norms = [module for module in layers if isinstance(module, NORMS)]
    return len(layers) > len(norms) or (bool(norms) and max(counts) == 1)


def _begins(block: Block, own: tuple[set[int], set[int]]) -> set[int]:
    """Return the pieces of one tensor in which both operands begin, as in Res2Net; none if one of them begins whole."""
    begins = {i for steps in own for i in steps if any(j in block.data and j not in steps for j in block.inputs(i))}
    return begins if own[0] and own[1] and all(map(block.is_piece, begins)) else set()


def ends(block: Block) -> list[Source]:
    """Return where the residual branches of a block end, without the adds that have none."""
    return [add.source for add in adds(block) if add.source.path]


def has_parallel(block: Block) -> bool:
    return any(add.source.reason == PARALLEL for add in adds(block))
