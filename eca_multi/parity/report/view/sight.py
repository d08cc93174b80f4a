"""What the cases cannot see: the faults of porting that a dtype and case would let pass, a line for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eca_multi.parity.judge.sight import Sight


@dataclass(frozen=True)
class Blind:
    """One fault in one dtype: the cases that have its operation and cannot see it, and those that can."""

    dtype: str
    fault: str
    cannot: tuple[str, ...]
    can: tuple[str, ...]

    @property
    def line(self) -> str:
        if not self.can:
            return f"{self.dtype} cannot see: {self.fault}, in any case"
        return f"{self.dtype} cannot see: {self.fault}, in {', '.join(self.cannot)} ({', '.join(self.can)} can)"


def read_blind(sights: Sequence[Sight], case: Callable[[str], Any], dtype: Callable[[str], Any]) -> list[Blind]:
    """Return what no verdict would show, by dtype; `case` and `dtype` order the names."""
    cases: dict[tuple[str, str], dict[bool, list[str]]] = {}
    for sight in sorted(sights, key=lambda sight: case(sight.case)):
        for can, faults in ((True, sight.seen), (False, sight.unseen)):
            for fault in faults:
                cases.setdefault((sight.dtype, fault), {True: [], False: []})[can].append(sight.case)
    return [
        Blind(*key, cannot=tuple(cases[key][False]), can=tuple(cases[key][True]))
        for key in sorted(cases, key=lambda key: (dtype(key[0]), key[1]))
        if cases[key][False]
    ]
