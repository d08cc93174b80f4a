"""All or nothing: put back what a block has changed if the block raises."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def undone_on_error(steps: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Run the steps back, the last one first, if the block raises, Ctrl-C included.

    Put the block's `return` into the block: an exception after the block undoes nothing.

    Args:
        steps: The caller appends one before each change. All steps run, even if one raises.
    """
    try:
        yield
    except BaseException:
        with ExitStack() as stack:
            for step in steps:
                stack.callback(step)
        raise
