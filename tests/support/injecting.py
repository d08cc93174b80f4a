"""Raise exceptions at chosen lines of our own code, as Ctrl-C or a lack of memory does."""

import dis
import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Position = tuple[str, int, int]  # file, line, and the how manieth time that it runs


class Interrupted(KeyboardInterrupt):
    """`except Exception` does not catch this."""


class NoMemory(MemoryError):
    """`except Exception` catches this."""


@functools.cache
def without_a_fault(code: CodeType) -> frozenset[int]:
    """Positions that Python traces but where no exception can be raised: the call of a `with` statement's __exit__.

    Python raises what a trace function raises there before that call, which nothing in reality does: a signal is
    looked at after a call and at a jump back. A `try:` that begins a `with` block is such a position too: its NOP does
    nothing, and the table of handlers leaves the NOP out.
    """
    steps = [one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "EXTENDED_ARG")]
    found = set()
    for number, one in enumerate(steps):
        three = steps[number : number + 3]
        if len(three) == 3 and all(step.opname == "LOAD_CONST" and step.argval is None for step in three):
            found.add(one.offset)
        if one.opname == "NOP":
            found.add(one.offset)
        if one.opname == "PUSH_EXC_INFO" and steps[number + 1].opname == "WITH_EXCEPT_START":
            found.add(one.offset)
    return frozenset(found)


class Injector:
    """Runs a function and raises once, at one line of the files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def positions(self, call: Callable[[], Any]) -> list[Position]:
        """Return every line that a run executes, once per execution."""
        seen: dict[tuple[str, int], int] = {}
        with self._traced(lambda file, line: seen.update({(file, line): seen.get((file, line), 0) + 1})):
            call()
        return [(file, line, number) for (file, line), times in seen.items() for number in range(1, times + 1)]

    def strike(self, call: Callable[[], Any], position: Position, error: type[BaseException]) -> str:
        """Run and raise at a position: "raised", "swallowed" if the run returned, "missed" if it never got there."""
        left = position[2]
        hit = False

        def strike(file: str, line: int) -> None:
            nonlocal left, hit
            if (file, line) == position[:2]:
                left -= 1
                if left == 0:
                    hit = True
                    raise error(f"injected at {Path(file).name}:{line}")

        try:
            with self._traced(strike):
                call()
        except BaseException as caught:
            if not hit:
                raise
            if isinstance(caught, KeyboardInterrupt) and not isinstance(caught, Interrupted):
                raise  # the user's
            return "raised"
        return "swallowed" if hit else "missed"

    @contextmanager
    def _traced(self, at_line: Callable[[str, int], None]) -> Iterator[None]:
        def on_call(frame: FrameType, event: str, argument: Any) -> Any:
            return on_line if frame.f_code.co_filename.startswith(self.folder) else None

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line" and frame.f_lasti not in without_a_fault(frame.f_code):
                at_line(frame.f_code.co_filename, frame.f_lineno)
            return on_line

        before = sys.gettrace()
        sys.settrace(on_call)
        try:
            yield
        finally:
            sys.settrace(before)


def drawn(positions: list[Position], count: int, seed: int) -> list[Position]:
    """Draw positions. Each line is as likely as another, however often it runs; the first positions are distinct."""
    rng = random.Random(seed)
    lines: dict[tuple[str, int], list[Position]] = {}
    for position in positions:
        lines.setdefault(position[:2], []).append(position)
    order: list[list[Position]] = []
    while len(order) < count:
        order += rng.sample(list(lines.values()), len(lines))
    return [rng.choice(choices) for choices in order[:count]]
