"""The name of the method by which a Flax network is called."""

from typing import Any


def check_method(module: Any, method: Any) -> None:
    """Refuse anything but the name of a method of the module."""
    if not isinstance(method, str):
        raise TypeError(
            f"method must be the name of a method of the module. Received: {type(method).__name__}. "
            "Pass 'encode', for a network that is called by net.encode(x)."
        )
    # Not getattr, which finds the __call__ by which a class makes its instances.
    if not any(callable(vars(cls).get(method)) for cls in type(module).__mro__):
        remedy = "Pass the name of the one that takes the inputs, as 'encode'."
        raise ValueError(
            f"method must be the name of a method of the module. Received: {method!r}, which {type(module).__name__} "
            f"lacks. {remedy if method == '__call__' else 'Leave it out for __call__.'}"
        )
