"""Whose backward pass is wrong, where forward every submodule agrees: from the gradients that arrive at the outputs.

The gradient that arrives at a submodule's output was made by the submodules, and the code, that take that output. So
the last output at which a wrong gradient arrives lies right before the fault: what takes the output gets a right one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from eca_multi.parity.judge.compare import Judgement
from eca_multi.parity.models.calls import Call
from eca_multi.parity.models.graph import Graph, Keys, innermost, is_inside
from eca_multi.parity.models.pairing import Pair

from .localize import FAILS

Key = tuple[str, int]  # of a call


@dataclass(frozen=True)
class Wrong:
    """The gradients that the comparison found wrong: of inputs of the model, and of weights, by name."""

    inputs: Sequence[str] = ()
    weights: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """Where a backward pass goes wrong: the path of the submodule, and the words that follow "the backward pass"."""

    culprit: str
    text: str


def find_backward(graph: Graph, pairs: Sequence[Pair], arrived: Mapping[Key, Judgement], wrong: Wrong) -> Found | None:
    """Name the submodule whose own backward pass is wrong, or those between which it goes wrong.

    Args:
        graph: The reference's calls.
        pairs: Those that have a twin in the port.
        arrived: The judgement of the gradient that arrives at the output of a pair, by the key of the reference's call.
        wrong: What the comparison found.
    """
    places = {pair.reference.key: pair.place for pair in pairs}
    right = {key for key, judgement in arrived.items() if judgement.verdict not in FAILS}
    if owned := _of_weights(graph, arrived, right, wrong.weights):
        call, names = owned
        where = f"of {places[call.key]}: the gradient that arrives there agrees, that of {', '.join(names)} does not"
        return Found(call.path or call.name, where)
    last = next((c for c in reversed(graph.calls) if c.key in arrived and c.key not in right), None)
    if last is None and not wrong.inputs:
        return None
    keys = graph.keys(call=last, inputs=() if last else wrong.inputs)
    takers, alone = _judged_takers(graph, keys, set(arrived))
    seen = keys.union(*(graph.keys(call=call) for call in alone))
    coded = [call for call in graph.behind_code(seen) if call.key in right and call not in takers]
    if last is None:
        start, off = f"the input {', '.join(wrong.inputs)}", "whose gradient differs"
    else:
        start, off = places[last.key], f"where a gradient arrives that is off by {say_size(arrived[last.key])}"
    if len(takers) == 1 and not alone and not coded:
        (taker,) = takers
        sent = f"the one that it sends to {last.name if last else start} does not"
        return Found(
            taker.path or taker.name, f"of {places[taker.key]}: the gradient that arrives there agrees, {sent}"
        )
    ends = " and ".join(places[call.key] for call in [*takers, *coded[:1]]) or "what the model returns"
    agree = ", where it agrees" if takers or coded else ""
    twins = f"; the port has no twin of {', '.join(call.name for call in alone)} there" if alone else ""
    name = takers[0] if takers else last
    culprit = (name.path or name.name) if name else wrong.inputs[0]
    return Found(culprit, f"between {start}, {off}, and {ends}{agree}{twins}")


def say_size(judgement: Judgement) -> str:
    use = judgement.budget_use
    return f"{use:.3g} x the budget" if use is not None else str(judgement.verdict)


def _of_weights(
    graph: Graph, judged: Collection[Key], right: Collection[Key], weights: Sequence[str]
) -> tuple[Call, list[str]] | None:
    """Return the last submodule whose own weights get wrong gradients, while right ones arrive at it and inside it."""
    owners = {weight: graph.owner(weight) for weight in weights}
    wrong_at = [path for path, number in judged if (path, number) not in right]
    for call in reversed(graph.calls):
        names = [weight for weight, path in owners.items() if path == call.path]
        every = [other.key for other in graph.calls if other.path == call.path]
        if names and all(key in right for key in every) and not any(is_inside(path, call.path) for path in wrong_at):
            return call, names
    return None


def _judged_takers(graph: Graph, keys: Keys, judged: Collection[Key]) -> tuple[list[Call], list[Call]]:
    """Return the submodules with a twin that take a tensor, and those without one on the way there."""
    found: list[Call] = []
    alone: list[Call] = []
    waiting = [keys]
    while waiting:
        takers = [call for call in graph.takers(waiting.pop()) if call not in found and call not in alone]
        found += [call for call in takers if call.key in judged]
        passing = [call for call in innermost(takers) if call.key not in judged]
        alone += passing
        waiting += [graph.keys(call=call) for call in passing]
    return innermost(found), alone
