"""The name of the method by which a Flax network is called."""

from typing import Any


def check_method(module: Any, method: Any) -> None:
    """Refuse anything but the name of a method of the module."""
    if not isinstance(method, str):
        raise TypeError(
            f"method must be the name of a method of the module. Received: {type(method).__name__}. "
            "Pass 'encode', for a network that is called by net.encode(x)."
        )
    if not callable(getattr(type(module), method, None)):
        raise ValueError(
            f"method must be the name of a method of the module. Received: {method!r}, which {type(module).__name__} "
            "lacks. Leave it out for __call__."
        )
