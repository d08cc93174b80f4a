"""Faults in the place of a norm in a residual block: first or last, and which of the two the residual adds."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from eca_multi.parity.mutants.mode import ANY, Call, Change

from .hypothesis import Hypothesis, Seen, on
from .trace import READS

NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")


def _residual_of_normalised(seen: Sequence[Seen]) -> Mapping[str, Change]:
    """Add norm(x) where the layer adds x: norm(x) + f(norm(x))."""
    normalised: list[tuple[torch.Tensor, torch.Tensor]] = []

    def norm(call: Call) -> Any:
        result = call.plain()
        normalised.append((call.x, result))
        return result

    def add(call: Call) -> Any:
        for index, term in enumerate(call.args[:2]):
            for x, result in normalised:
                if term is x:
                    return call.func(*call.args[:index], result, *call.args[index + 1 :], **call.kwargs)
        return NotImplemented

    return {**on(NORMS, norm), "add": add}


def _norm_last(seen: Sequence[Seen]) -> Mapping[str, Change]:
    """Compute norm(x + f(x)) where the layer computes x + f(norm(x))."""
    norms: list[Call] = []

    def norm(call: Call) -> Any:
        norms.append(call)
        return call.x.clone()

    def add(call: Call) -> Any:
        found = next((norm for norm in norms if any(term is norm.x for term in call.args[:2])), None)
        return NotImplemented if found is None else found.on(call.plain())

    return {**on(NORMS, norm), "add": add}


def _norm_first(seen: Sequence[Seen]) -> Mapping[str, Change]:
    """Compute x + f(norm(x)) where the layer computes norm(x + f(x)).

    The branch comes before the norm, so that a run without changes has to say what the branch reads.
    """
    normalised: dict[tuple[int, int], Call] = {}  # by the number of a call and of its argument: the norm to come
    taken: set[int] = set()  # norms that give back what they get
    for number, one in enumerate(seen):
        place = next((n for n in range(number) if one.call.name in NORMS and seen[n].result is one.call.x), None)
        if place is None or seen[place].call.name != "add":
            continue
        terms = [term for term in seen[place].call.args[:2] if isinstance(term, torch.Tensor)]
        reads = [
            (n, index) for n in range(place) for index, x in enumerate(seen[n].call.args) if any(x is t for t in terms)
        ]
        if reads:
            first, index = reads[0]
            block = seen[first].call.args[index]
            normalised |= {(n, i): one.call for n, i in reads if seen[n].call.args[i] is block}
            taken.add(number)
    count = -1

    def change(call: Call) -> Any:
        nonlocal count
        if call.name in READS:  # a run with noise may ask for more or fewer sizes
            return NotImplemented
        count += 1
        if count in taken:
            return call.x.clone()
        args = [
            normalised[count, index].on(x) if (count, index) in normalised else x for index, x in enumerate(call.args)
        ]
        return NotImplemented if all(a is b for a, b in zip(args, call.args, strict=True)) else call.func(*args)

    return {ANY: change} if taken else {}


_BLOCK = dict.fromkeys((*NORMS, "add"))
ORDER_OF_NORM = (
    Hypothesis(
        "the residual is of the normalised x: norm(x) + f(norm(x))",
        dict.fromkeys((*NORMS, "add")),
        planned=_residual_of_normalised,
    ),
    Hypothesis("the norm comes last: norm(x + f(x))", dict.fromkeys((*NORMS, "add")), planned=_norm_last),
    Hypothesis("the norm comes first: x + f(norm(x))", {ANY: None}, planned=_norm_first),
)
