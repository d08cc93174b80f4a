"""Taps: named values inside a layer, which the harness reads forwards and backwards.

A layer or an adapter writes `gate = tap("gate", gate)`. Outside of the harness `tap` returns the value unchanged. In
the harness the engine records the value and its gradient; the reference may put another value in its place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Recorder = Callable[[str, Any], Any]

# A plain global, which torch.compile can trace; a worker runs one layer at a time.
_recorder: Recorder | None = None


def tap(name: str, value: T) -> T:
    """Name an intermediate value of a layer; return it.

    Args:
        name: One of the specification's `taps`.
        value: A tensor of any framework.

    Example:
        >>> from eca_multi.parity import tap
        >>> tap("gate", 0.5)
        0.5
    """
    return value if _recorder is None else _recorder(name, value)


@contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """Send every tapped value of this context to `recorder`; the layer goes on with the recorder's return value."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
