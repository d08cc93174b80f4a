"""The operations of a linen network's run, as JAX traces them, told to a `Flow`."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.zoo.flax_run import Call, apply
from benchmarks.zoo.flow import ADD, MIX, MUL, NOTHING, OTHER, Add, Flow, Value

KINDS = {"conv_general_dilated": MIX, "dot_general": MIX, "add": ADD, "add_any": ADD, "mul": MUL}
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # where an operation that calls others keeps them


def adds_of(module: nn.Module, variables: Any, call: Call) -> list[Add]:
    """Return the residual adds of one run as in evaluation, in the order in which they run."""
    flat = flatten_dict(variables)
    keys, leaves = list(flat), list(flat.values())
    names, arrays = zip(*call.arrays.items(), strict=True)

    def run(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
        tree = unflatten_dict(dict(zip(keys, leaves, strict=True)))
        return apply(module, tree, call.with_arrays(dict(zip(names, arrays, strict=True))))

    traced = jax.make_jaxpr(run)(leaves, arrays)
    kernels = [Value(opened=frozenset({"/".join(k[1:-2])})) if k[-2:] == ("eca", "kernel") else NOTHING for k in keys]
    flow = Flow()
    _walk(flow, traced.jaxpr, [*kernels, *[Value(from_input=True)] * len(arrays)])
    return flow.adds


def _walk(flow: Flow, jaxpr: Any, inputs: Sequence[Value], scope: str = "") -> list[Value]:
    at: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def value(atom: Any) -> Value:
        return NOTHING if isinstance(atom, jax.extend.core.Literal) else at.get(atom, NOTHING)

    for eqn in jaxpr.eqns:
        read = [value(atom) for atom in eqn.invars]
        made = _called(flow, eqn, read, scope)
        if made is None:
            name = eqn.primitive.name
            made = [
                flow.step(
                    KINDS.get(name, OTHER), read, shapes=[tuple(atom.aval.shape) for atom in eqn.invars],
                    conv=name == "conv_general_dilated", place=_place(_scope(eqn, scope)),
                )
            ] * len(eqn.outvars)  # fmt: skip
        at.update(zip(eqn.outvars, made, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _called(flow: Flow, eqn: Any, read: Sequence[Value], scope: str) -> list[Value] | None:
    """Walk through the operations inside an operation such as a jit, a remat or a scan; None where there are none."""
    if eqn.primitive.name == "cond":
        return _walk(flow, eqn.params["branches"][0].jaxpr, read[1:], _scope(eqn, scope))
    for key in INNER:
        inner = eqn.params.get(key)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and hasattr(inner, "eqns") and len(inner.invars) == len(read):
            return _walk(flow, inner, read, _scope(eqn, scope))
    return None


def _scope(eqn: Any, outer: str) -> str:
    return "/".join(filter(None, (outer, str(eqn.source_info.name_stack))))


def _place(scope: str) -> str:
    """The module in which an operation runs: the scopes that linen names, without the root's and JAX's own."""
    scopes = [part.split(".")[0] for part in scope.split("/") if part.isidentifier() or "." in part]
    return "/".join(scopes[1:])
