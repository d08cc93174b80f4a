"""Residual adds, counted without the package's finder: by the data flow on the operations that run.

A front end (`torch_flow`, `keras_flow`, `flax_flow`) tells the operations of one run in their order. An add counts as
residual if its two sides have one shape of rank 3 or more, both depend on the network's input, and at least one side
depends on a convolution that the other does not. The count is generous: merges of pyramids, parallel reparameterised
branches and partial sums are no residual branches, but count.

In the network with ECA the same walk tells whether an add is gated: whether one of its sides comes from a product with
an ECA's gate, without a convolution, a matrix product or another add between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MIX, ADD, MUL, OTHER = "mix", "add", "mul", "other"  # MIX: a convolution or a matrix product


@dataclass(frozen=True)
class Value:
    """What one tensor depends on.

    Args:
        from_input: Whether on the network's input.
        convs: Convolutions.
        opened: ECAs whose kernel is in the tensor, where the tensor is a gate that has not met its features yet.
        gated: ECAs that gate this tensor.
    """

    from_input: bool = False
    convs: frozenset[int] = frozenset()
    opened: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()


NOTHING = Value()


@dataclass(frozen=True)
class Add:
    """One residual add: in which block and line of code it stands, and which ECAs gate one of its sides."""

    place: str
    shape: tuple[int, ...]
    ecas: frozenset[str]
    line: str = ""


@dataclass
class Flow:
    """The walk over the operations of one run."""

    adds: list[Add] = field(default_factory=list)
    convs: int = 0

    def step(
        self, kind: str, inputs: Sequence[Value], *, shapes: Sequence[tuple[int, ...]] = (), conv: bool = False,
        place: str = "", line: str = "",
    ) -> Value:  # fmt: skip
        """Return the value that an operation makes.

        Args:
            inputs: The tensors that the operation reads.
            shapes: Of an ADD, their shapes.
            conv: Whether a MIX is a convolution.
            place: Of an ADD, where it stands.
            line: Of an ADD, the line of code, as "package.module:line"; "" if unknown.
        """
        from_input = any(value.from_input for value in inputs)
        convs = _union(value.convs for value in inputs)
        opened = _union(value.opened for value in inputs)
        gated = _union(value.gated for value in inputs)
        if kind == MIX:
            if conv and from_input:
                self.convs += 1
                convs |= {self.convs}
            # A convolution with an ECA's kernel makes a gate; any other one ends what was gated before.
            opened = _union(value.opened for value in inputs if not value.from_input)
            return Value(from_input, convs, opened)
        if kind == ADD and len(inputs) == 2:
            if _is_residual(inputs, shapes):
                self.adds.append(Add(place, shapes[0], gated | opened, line))
                return Value(from_input, convs)
            one_sided = not all(value.from_input for value in inputs)
            return Value(from_input, convs, opened, gated if one_sided else frozenset())
        if kind == MUL:
            gates = [value for value in inputs if value.from_input and value.opened]
            if gates and any(value.from_input and not value.opened for value in inputs):
                return Value(from_input, convs, frozenset(), gated | opened)
        return Value(from_input, convs, opened, gated)


def _is_residual(inputs: Sequence[Value], shapes: Sequence[tuple[int, ...]]) -> bool:
    left, right = inputs
    same = len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) >= 3
    return same and left.from_input and right.from_input and left.convs != right.convs


def _union(parts: Iterable[frozenset]) -> frozenset:
    return frozenset().union(*parts)
