"""The verb that proposes a map: which weight of a reference belongs to which weight of a port, and in which order."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from .define.axes import SpecError
from .models import Model, model_of
from .models.elsewhere import Elsewhere
from .models.inputs import read_inputs
from .proposals.marked import Marks, floats
from .proposals.names import Weight, weight
from .proposals.pairs import Choice, Pairing, pair
from .proposals.patterns import compact

_SHOWN = 6
_MOST_IN_ORDER = 3  # weights that change places: each order is a run


@dataclass(frozen=True)
class Proposal(Mapping[str, str | None]):
    """A proposed map: a mapping of entries, one for each weight of the port, whose text can be pasted.

    Attributes:
        entries: Native name of the port -> text about the reference's weights, or None.
        open: One line for each thing that names, shapes and runs do not decide.
        confirmed: Whether both models returned the same by this map, with drawn weights; None if they were not run.
    """

    entries: Mapping[str, str | None]
    open: tuple[str, ...] = ()
    confirmed: bool | None = None

    def __getitem__(self, name: str) -> str | None:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def patterns(self) -> dict[str, str | None]:
        """The same map in fewer lines, by patterns."""
        return compact(self.entries)

    def __str__(self) -> str:
        """The map to paste, with what is open as comments before it."""
        state = {
            None: "# Not run: give inputs, and both models are run with drawn weights.",
            True: "# Both models return the same by this map, with drawn weights.",
            False: "# Both models were run with drawn weights, and do not return the same by this map.",
        }[self.confirmed]
        lines = [state, *(f"# Open: {line}" for line in self.open), "{"]
        lines += [f"    {_quoted(name)}: {_quoted(text)}," for name, text in self.patterns.items()]
        return "\n".join([*lines, "}"])


def propose_map(reference: Any, port: Any, inputs: Any = None) -> Proposal:
    """Propose the map from a reference's weights to a port's.

    Names, shapes and order decide what belongs together. Where several orders of axes fit, or names do not tell weights
    apart, both models are run with marked weights if inputs are given; what stays open is said, not guessed.

    Args:
        reference, port: A torch nn.Module, a Keras layer or model, an nnx module, a linen (module, variables), or
            (function, parameters).
        inputs: What both are called with, in the reference's order of axes: an array, or a tuple or dict of arrays.

    Returns:
        The map. `print` shows it to paste; it can be given as `map` to `assert_ported` and `port_weights` as it is.

    Raises:
        SpecError: If the models have no weights of common shapes.

    Example:
        >>> import numpy as np, torch
        >>> kernel, bias = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
        >>> port = (lambda p, x: x @ p["kernel"] + p["bias"], {"kernel": kernel, "bias": bias})
        >>> print(propose_map(torch.nn.Linear(4, 3), port))
        # Not run: give inputs, and both models are run with drawn weights.
        {
            "bias": "bias",
            "kernel": "weight: o i -> i o",
        }
    """
    ours, theirs = model_of(reference), model_of(port)
    pairing = pair(_weights(ours), _weights(theirs), _turned(ours, theirs), _flips(ours) != _flips(theirs))
    if not pairing.choices:
        raise SpecError(
            "the models must have weights of common shapes. Received: "
            f"{_shapes(_weights(ours))} in the reference and {_shapes(_weights(theirs))} in the port."
        )
    held = {choice.native: choice.texts[0] for choice in pairing.choices}
    entries: dict[str, str | None] = {name: held.get(name) for name in theirs.weights()}
    lost = [
        *(f"nothing of the port fits {w.path} {w.shape} of the reference" for w in pairing.left_reference),
        *(f"nothing of the reference fits {w.path} {w.shape} of the port" for w in pairing.left_port),
    ]
    if inputs is None or lost:
        return Proposal(entries, (*lost, *_doubts(pairing)))
    return _decided(Marks(ours, theirs, inputs), pairing, entries)


def propose_sources(reference: str, port: str, inputs: str | os.PathLike[str] | None = None) -> Proposal:
    """Propose a map for two models by name, each in a process of its own: `eca-multi parity map`.

    Args:
        reference, port: "module:factory" or "file.py:factory": a function that makes the model, or the model.
        inputs: An .npz file, as for `eca-multi parity port`; None does not run the models.

    Raises:
        SpecError: As `propose_map`, or if a name or a file cannot be read.
    """
    arrays = None if inputs is None else read_inputs(inputs)
    with Elsewhere("the reference", reference) as ours, Elsewhere("the port", port) as theirs:
        return propose_map(ours, theirs, arrays)


def _decided(marks: Marks, pairing: Pairing, entries: dict[str, str | None]) -> Proposal:
    """Decide each open choice by running both models; blocks of a network are decided together."""
    pairing = _ordered(marks, pairing, entries)
    classes = _classes(pairing)
    lines: list[str] = []
    for choices, count in classes:
        texts = [{choice.native: choice.texts[n] for choice in choices} for n in range(count)]
        others = [
            {choice.native: choice.texts[n] for choice in other}
            for other, size in classes
            if other is not choices
            for n in range(1, size)
        ]
        fitting = marks.fitting(entries, texts, others)
        if len(fitting) == 1:
            entries |= texts[fitting[0]]
        elif fitting:
            entries |= texts[fitting[0]]
            lines.append(f"{choices[0].native}: {len(fitting)} texts give the same outputs: {_or(choices[0], fitting)}")
        else:
            lines.append(f"{choices[0].native}: no text gives the same outputs, of {_or(choices[0], range(count))}")
    confirmed = marks.agree(entries)
    tried = [group for group in pairing.by_order if len(group) <= _MOST_IN_ORDER]  # and the run did not tell
    lines += [_by_order(group) for group in (tried if confirmed else pairing.by_order)]
    return Proposal(entries, tuple(lines), confirmed)


def _ordered(marks: Marks, pairing: Pairing, entries: dict[str, str | None]) -> Pairing:
    """Decide by running both which of a few weights with one shape is which, where names do not tell."""
    held = {choice.native: choice for choice in pairing.choices}
    few = [
        group
        for group in pairing.by_order
        if len(group) <= _MOST_IN_ORDER and all(len(held[native].reference) == 1 for native in group)
    ]
    turns = [_renamed(group, held) for group in few]
    open_ways = [
        {choice.native: choice.texts[n] for choice in choices}
        for choices, count in _classes(pairing)
        for n in range(1, count)
    ]
    left = [group for group in pairing.by_order if group not in few]
    for turn in turns:
        first = [{native: choice.texts[0] for native, choice in way.items()} for way in turn]
        others = [
            {native: choice.texts[0] for native, choice in way.items()}
            for other in turns
            if other is not turn
            for way in other[1:]
        ]
        fitting = marks.fitting(entries, first, [*open_ways, *others])
        if len(fitting) == 1:
            held |= turn[fitting[0]]
        else:
            left.append(tuple(turn[0]))
    entries |= {native: choice.texts[0] for native, choice in held.items()}
    return replace(pairing, choices=tuple(held.values()), by_order=tuple(left))


def _renamed(group: tuple[str, ...], held: Mapping[str, Choice]) -> list[dict[str, Choice]]:
    """Return the choices of a group for each order in which the reference's weights may belong to it."""
    turns = []
    for order in permutations(group):
        turn = {}
        for native, other in zip(group, order, strict=True):
            old, new = held[native].reference[0], held[other].reference[0]
            texts = tuple(new + text[len(old) :] for text in held[native].texts)
            turn[native] = replace(held[native], texts=texts, reference=(new,))
        turns.append(turn)
    return turns


def _classes(pairing: Pairing) -> list[tuple[list[Choice], int]]:
    """Return the open choices, those of a network's blocks together, with the number of texts."""
    classes: dict[object, list[Choice]] = {}
    for choice in pairing.choices:
        if len(choice.texts) > 1:
            held = tuple(weight(name, ()).words for name in choice.reference)
            native = weight(choice.native, ())
            ways = tuple(re.sub(r"\w+\[\d+\]", "", text.partition(":")[2]) for text in choice.texts)
            words = tuple(word for word in native.words if word != native.part)  # the parts of one weight go together
            classes.setdefault((held, words, ways), []).append(choice)
    return [(choices, len(choices[0].texts)) for choices in classes.values()]


def _doubts(pairing: Pairing) -> list[str]:
    shown = [f"{choices[0].native}: {choices[0].why}; taken as usual" for choices, _ in _classes(pairing)]
    one = [f"{c.native}: {c.why}" for c in pairing.choices if c.why and len(c.texts) == 1]
    return [*shown, *dict.fromkeys(one), *(_by_order(group) for group in pairing.by_order)]


def _by_order(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"{shown}: their names do not tell them apart; taken in the order of the models"


def _or(choice: Choice, numbers: Any) -> str:
    return " or ".join(repr(choice.texts[number]) for number in numbers)


def _weights(model: Model) -> list[Weight]:
    return [weight(name, array.shape) for name, array in floats(model).items()]


def _turned(ours: Model, theirs: Model) -> str:
    if (ours.framework == "torch") == (theirs.framework == "torch"):
        return ""
    return "from" if ours.framework == "torch" else "to"


def _flips(model: Model) -> bool:
    """Whether the kernel of a transposed convolution is reversed: Flax's default, unlike torch's and Keras's."""
    return model.framework in ("linen", "nnx")


def _shapes(weights: list[Weight]) -> str:
    shown = [f"{w.path} {w.shape}" for w in weights[:_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(weights) > _SHOWN else [])]) or "no weights"


def _quoted(text: str | None) -> str:
    return "None" if text is None else f'"{text}"'
