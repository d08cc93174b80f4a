"""A jaxpr as one flat graph: which values come from which convolutions and which tagged module outputs.

`Flow` inlines all inner jaxprs (jit, custom gradients, remat, scan, cond) and says of every value what it was made of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import prod
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Var

from .tags import Mark, read_mark

# Each number of the output comes from one number of each input: at the same place, or moved to another place.
ELEMENTWISE = frozenset(
    (
        *("abs", "add", "add_any", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "device_put"),
        *("div", "erf", "exp", "exp2", "expm1", "floor", "integer_pow", "is_finite", "join", "log", "log1p"),
        *("logistic", "max", "mesh_cast", "min", "mul", "name", "neg", "optimization_barrier", "pow", "pvary"),
        *("reduce_precision", "rem", "reshard", "round", "rsqrt", "select_n", "sharding_constraint", "sign", "sin"),
        *("sqrt", "square", "stop_gradient", "sub", "tan", "tanh"),
    )
)
MOVES = frozenset(("broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"))
SAME_RANK = frozenset(
    (
        *("concatenate", "conv_general_dilated", "cumsum", "dynamic_slice", "gather", "pad", "reduce_window"),
        *("reduce_window_max", "reduce_window_sum", "rev", "select_and_scatter_add", "slice"),
    )
)
# A silent operation changes no number.
SILENT = frozenset(
    (
        *("convert_element_type", "copy", "copy_p", "device_put", "join", "mesh_cast", "name", "optimization_barrier"),
        *("pvary", "reduce_precision", "reshard", "sharding_constraint", "stop_gradient"),
    )
)
PARTS = frozenset(("dynamic_slice", "slice", "slice of scan"))
ADDS = ("add", "add_any")
RANDOM = frozenset(("rng_bit_generator", "rng_uniform", "threefry2x32"))


@dataclass(slots=True)
class Node:
    """One value of a run.

    Args:
        op: The primitive that made the value; "input", "constant", "tag", "slice of scan", "stack of scan" or "join"
            where no primitive did.
        ins: Numbers of the values that this one was made of.
        floating, data, random: Whether the dtype is real and floating-point, the value depends on the model's inputs,
            and random numbers were drawn for the value.
        convs, dots, sources: Bit sets: the convolutions, the matrix products, and the inputs and tags behind the value.
        axis: Of the channels, as far as a convolution, a transposition and so on tell; None where they do not.
        times: How often one run makes the value: a scan's body counts once for each step.
        source: Of an add, what JAX recorded of the code that adds, for `line_of`.
    """

    op: str
    ins: tuple[int, ...]
    shape: tuple[int, ...]
    floating: bool
    data: bool
    random: bool = False
    convs: int = 0
    dots: int = 0
    sources: int = 0
    axis: int | None = None
    mark: Mark | None = None
    times: int = 1
    source: Any = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass
class Flow:
    """The values of one run, each after those that it was made of.

    Args:
        jaxpr: Of the run. The model's variables are closed over, or arguments that `inputs` does not name.
        inputs: Which of the jaxpr's arguments are the model's inputs; None for all.
        weights: The first of the jaxpr's arguments, as arrays, as far as they are known; shapes tell nothing.
        results: How many of the jaxpr's outputs, the first ones, are the model's; the rest are its statistics.
        memo: The results of `origins`, by number.
    """

    jaxpr: ClosedJaxpr
    inputs: Sequence[int] | None = None
    weights: Sequence[Any] = ()
    results: int | None = None
    nodes: list[Node] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._bits = {"convs": 0, "dots": 0, "sources": 0}
        inner = self.jaxpr.jaxpr
        chosen = range(len(inner.invars)) if self.inputs is None else self.inputs
        constants = [self._leaf("constant", v.aval, False) for v in inner.constvars]
        arguments = [
            self._leaf("input" if i in chosen else "constant", v.aval, i in chosen) for i, v in enumerate(inner.invars)
        ]
        self._weight_of = dict(zip(arguments, self.weights, strict=False))
        self.outputs = self._inline(inner, [*constants, *arguments], 1)

    def tags(self, kind: str = "out", path: str | None = None) -> Iterator[int]:
        """Yield the numbers of the tags, in the order of the run."""
        for number, node in enumerate(self.nodes):
            if node.mark and node.mark.kind == kind and path in (None, node.mark.path):
                yield number

    def calls(self, path: str) -> int:
        marks = [self.nodes[n] for n in self.tags("out", path)]
        return sum(node.times for node in marks if node.mark and node.mark.leaf == 0)

    def path(self, number: int) -> str:
        """Return the module's path in a tag; "" for a value without a tag."""
        mark = self.nodes[number].mark
        return mark.path if mark is not None else ""

    def weight(self, number: int) -> Any:
        """Return the array of the model's variables that a value is, or is a part of; None for any other value."""
        node = self.nodes[number]
        while len(node.ins) == 1 and (node.op in PARTS or node.op in SILENT or node.op in MOVES):
            number = node.ins[0]
            node = self.nodes[number]
        return self._weight_of.get(number)

    @cached_property
    def users(self) -> list[list[int]]:
        """For each value, the values that were made of that value."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for operand in set(node.ins):
                users[operand].append(number)
        return users

    @cached_property
    def used(self) -> set[int]:
        """The values that go into an output of the run, and the outputs."""
        return self.behind(*self.outputs).union(self.outputs)

    def behind(self, *numbers: int) -> set[int]:
        """Return all values that these were made of."""
        behind: set[int] = set()
        todo = [*numbers]
        while todo:
            new = [i for i in self.nodes[todo.pop()].ins if i not in behind]
            behind.update(new)
            todo += new
        return behind

    # --- reading the jaxpr ---------------------------------------------------------------------------------------

    def _leaf(self, op: str, aval: Any, data: bool) -> int:
        return self._add(op, (), aval, data=data, sources=self._bit("sources") if data else 0)

    def _bit(self, kind: str) -> int:
        self._bits[kind] += 1
        return 1 << self._bits[kind] - 1

    def _add(self, op: str, ins: Sequence[int], aval: Any, **more: Any) -> int:
        parents = [self.nodes[i] for i in ins]
        bits = {name: reduce(or_, (getattr(p, name) for p in parents), more.pop(name, 0)) for name in self._bits}
        shape = tuple(getattr(aval, "shape", ()))
        dtype = getattr(aval, "dtype", None)
        floating = dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))
        data = more.pop("data", False) or any(p.data for p in parents)
        random = more.pop("random", False) or any(p.random and not p.data for p in parents)
        self.nodes.append(Node(op, tuple(ins), shape, floating, data, random, **bits, **more))
        return len(self.nodes) - 1

    def _inline(self, jaxpr: Any, arguments: Sequence[int], times: int) -> list[int]:
        """Add the values of a jaxpr. Cached inner jaxprs share their variables: each call has its own environment."""
        known: dict[Var, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._add("constant", (), atom.aval)
            return known[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, ins, times), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, ins: list[int], times: int) -> list[int]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._scan(eqn, ins, times)
        if name == "while":
            body, skip = params["body_jaxpr"], params["cond_nconsts"]
            return self._inline(body.jaxpr, [*self._closed(body), *self._carried(ins[skip:])], times)
        if name == "cond":
            inner = [self._inline(b.jaxpr, [*self._closed(b), *ins[1:]], times) for b in params["branches"]]
            return [
                self._add("join", outs, v.aval, axis=self.nodes[outs[0]].axis, times=times)
                for v, *outs in zip(eqn.outvars, *inner, strict=True)
            ]
        inner_jaxpr = _inner(params, len(ins))
        if inner_jaxpr is not None:
            return self._inline(getattr(inner_jaxpr, "jaxpr", inner_jaxpr), [*self._closed(inner_jaxpr), *ins], times)
        return self._primitive(eqn, ins, times)

    def _closed(self, jaxpr: Any) -> list[int]:
        """Add the constants that an inner jaxpr closes over."""
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        return [self._leaf("constant", v.aval, False) for v in inner.constvars]

    def _carried(self, ins: list[int]) -> list[int]:
        """From the second step on, all of a loop's values depend on the inputs if one of them does."""
        if not any(self.nodes[i].data for i in ins):
            return ins
        return [
            i
            if self.nodes[i].data or not self.nodes[i].floating
            else self._add("join", (i,), jax.ShapeDtypeStruct(self.nodes[i].shape, jnp.float32), data=True)
            for i in ins
        ]

    def _scan(self, eqn: Any, ins: list[int], times: int) -> list[int]:
        """Inline a scan's body once: the stacked inputs lose an axis, the stacked outputs gain one."""
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
        first = consts + carry
        carried = ins[:consts] + (self._carried(ins)[consts:first])
        slices = [
            self._add("slice of scan", (i,), v.aval, axis=_moved(self.nodes[i].axis, -1))
            for i, v in zip(ins[first:], body.jaxpr.invars[first:], strict=True)
        ]
        outs = self._inline(body.jaxpr, [*self._closed(body), *carried, *slices], times * length)
        stacks = [
            self._add("stack of scan", (i,), v.aval, axis=_moved(self.nodes[i].axis, 1))
            for i, v in zip(outs[carry:], eqn.outvars[carry:], strict=True)
        ]
        return [*outs[:carry], *stacks]

    def _primitive(self, eqn: Any, ins: list[int], times: int) -> list[int]:
        name = eqn.primitive.name
        more: dict[str, Any] = {"times": times, "axis": self._axis(eqn, ins)}
        if name == "name":
            more["mark"] = read_mark(eqn.params["name"])
            name = "tag" if more["mark"] else name
        if name == "tag" and more["mark"].kind == "out":
            more["sources"] = self._bit("sources")
        if name == "conv_general_dilated" and self.nodes[ins[0]].data:
            more["convs"] = self._bit("convs")
        if name == "dot_general" and any(self.nodes[i].data for i in ins):
            more["dots"] = self._bit("dots")
        if name in RANDOM or name.startswith("random_"):
            more["random"] = True
        if name in ADDS:
            more["source"] = eqn.source_info
        each = name in ("optimization_barrier", "device_put") and len(ins) == len(eqn.outvars)
        return [self._add(name, (ins[i],) if each else ins, v.aval, **more) for i, v in enumerate(eqn.outvars)]

    def _axis(self, eqn: Any, ins: list[int]) -> int | None:
        name, params = eqn.primitive.name, eqn.params
        shape = getattr(eqn.outvars[0].aval, "shape", ()) if eqn.outvars else ()
        if name == "conv_general_dilated":
            return int(params["dimension_numbers"].out_spec[1])
        if name == "dot_general":
            return len(shape) - 1 if len(shape) >= 2 else None
        source = next((self.nodes[i] for i in ins if self.nodes[i].data and self.nodes[i].axis is not None), None)
        if source is None or source.axis is None:
            return None
        if name == "transpose":
            return int(params["permutation"].index(source.axis))
        if name == "broadcast_in_dim":
            return int(params["broadcast_dimensions"][source.axis])
        if name in ("reshape", "squeeze", "expand_dims") or name.startswith(("reduce_", "arg")):
            return _kept(name, params, source, shape)
        return source.axis if name in ELEMENTWISE or name in SAME_RANK or len(shape) == len(source.shape) else None


def _kept(name: str, params: dict[str, Any], source: Node, shape: tuple[int, ...]) -> int | None:
    """Return the channels' axis after axes were dropped or added."""
    axis = source.axis or 0
    if name.startswith(("reduce_", "arg")) and "axes" in params:
        dropped = [a % len(source.shape) for a in params["axes"]]
        return None if axis in dropped else axis - sum(a < axis for a in dropped)
    if len(shape) == len(source.shape):
        return axis if shape[axis] == source.shape[axis] else None
    last = axis == len(source.shape) - 1 and bool(shape) and shape[-1] == source.shape[-1]
    return len(shape) - 1 if last else None


def _moved(axis: int | None, by: int) -> int | None:
    return None if axis is None or axis + by < 0 else axis + by


def _inner(params: dict[str, Any], arguments: int) -> Any:
    """Return the jaxpr that a call runs on its own arguments: jit, remat, custom gradients, closed_call."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(name)
        jaxpr: Any = getattr(inner, "jaxpr", inner)
        if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == arguments:
            return inner
    return None
