"""The names in a weight map: each must be there, be used once, and stand on its own side; what is near is named."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .axes import SpecError
from .hints import did_you_mean, listed
from .map_patterns import NAME, Entries, could_match
from .map_text import Entry

REFERENCE = "the reference"  # of a port: where the map's other side is a model and no specification


@dataclass(frozen=True)
class Sides:
    """Whose map it is: `native` has the names before the colon, `canonical` those of the texts."""

    native: str
    canonical: str = "the specification"

    @property
    def map(self) -> str:
        return f"the weight map of {self.native}"

    @property
    def lacking(self) -> str:
        """What to do where the port has no such weight."""
        if self.canonical != REFERENCE:
            return ""
        return " If the port lacks it, compare without map=: outputs and gradients of inputs then show what is missing."


def check_direction(entries: Entries, native: Collection[str] | None, canonical: Collection[str], sides: Sides) -> None:
    """Refuse a map whose keys are canonical names and whose texts name native ones."""
    if native is None:
        return
    for key, text in entries.items():
        named = NAME.search((text or "").partition(":")[0])
        if named and _turned(key, native, canonical) and _turned(named[0], canonical, native):
            raise SpecError(
                f"{sides.map} must have names of {sides.native} for keys, and texts about {sides.canonical}. Received: "
                f"{key!r}, a name of {sides.canonical}, for the key of {text!r}. Write the map the other way round."
            )


def check_names(texts: Entries, native: Collection[str] | None, sides: Sides, shared: Mapping[str, str]) -> None:
    """Refuse a map that names what the layer does not have, or that leaves a parameter or buffer out."""
    if native is None:
        return
    if unknown := [name for name in texts if name not in native]:
        raise SpecError(
            f"{sides.map} names {unknown[0]!r}, which {sides.native} does not have: {listed(native)}."
            f"{did_you_mean(unknown[0], native)}"
        )
    known = {shared.get(name, name) for name in texts}
    if left := [name for name in native if name not in texts and shared.get(name, name) not in known]:
        raise SpecError(
            f"{sides.map} must name every parameter and buffer. Received: no {left[0]!r}. "
            f"Map it to a weight or state of {sides.canonical}, or to None to leave it out."
        )


def check_used(
    entries: Mapping[str, Entry], canonical: Collection[str], sides: Sides, shared: Mapping[str, str]
) -> None:
    """Refuse a map that names no canonical weight, leaves one out, or uses one twice without saying so."""
    used = [name for entry in entries.values() for name in entry.names]
    if wrong := [name for name in used if name not in canonical]:
        near = did_you_mean(wrong[0], canonical)
        raise SpecError(f"{sides.map} must lead to {listed(canonical)}. Received: {wrong[0]!r}.{near}")
    known = {shared.get(name, name) for name in used}
    if left := [name for name in canonical if shared.get(name, name) not in known]:
        raise SpecError(f"{sides.map} must use every weight and state. Received: none to {left[0]!r}.{sides.lacking}")
    whole = [(n, native) for native, entry in entries.items() for n in entry.names if not entry.is_part]
    tied = {(n, native) for native, entry in entries.items() for n in entry.names if entry.tied}
    for name in dict.fromkeys(name for name, _ in whole):
        holders = [native for n, native in whole if n == name]
        first = [native for native in holders if (name, native) not in tied]
        if len(first) > 1 or (first and used.count(name) > len(holders)):
            raise SpecError(
                f"{sides.map} must use {name!r} once. Received: {used.count(name)} times, in {listed(first)}. Where "
                "one weight is kept in several places, write ', tied' behind the axes of all but one of them."
            )
        if not first:
            raise SpecError(
                f"{sides.map} must use {name!r} once without 'tied'. Received: {listed(holders)}, all tied."
            )


def _turned(name: str, own: Collection[str], other: Collection[str]) -> bool:
    """Whether a name or pattern is one of the other side's alone."""
    return not any(could_match(name, known) for known in own) and any(could_match(name, known) for known in other)
