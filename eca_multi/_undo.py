"""All or nothing: put back what a block has changed if the block raises."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def undone_on_error(steps: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Run the steps back, the last one first, if the block raises, Ctrl-C included. All steps run, even if one raises.

    The block appends a step before each change. Its `return` stands in the block: an exception after it undoes nothing.
    """
    try:
        yield
    except BaseException:
        with ExitStack() as stack:
            for step in steps:
                stack.callback(step)
        raise
