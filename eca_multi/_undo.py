"""All or nothing: what a block has changed is put back when it ends by an exception."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def undone_on_error(steps: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Run the steps back, the last one first, if the block raises, Ctrl-C included.

    Put the block's `return` into the block: what comes behind it is not undone.

    Args:
        steps: The caller adds to them before each change. One that raises does not keep the others from running.
    """
    try:
        yield
    except BaseException:
        with ExitStack() as stack:
            for step in steps:
                stack.callback(step)
        raise
