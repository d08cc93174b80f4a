"""Which modules a network's forward calls, told by symbolic tracing of the whole network; no inputs are needed."""

from typing import Any

import torch
from torch import nn

from eca_multi.torch._unchanged import put_back


class _Tracer(torch.fx.Tracer):
    """Goes into every module and notes each, also one that a forward makes and that has no path."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.called: set[int] = set()

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        """Take the way of a comparison that fails: most ask whether an input is wrong, or one of a rare kind."""
        return False

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.called.add(id(m))
        if type(m).__module__.startswith("torch.nn.") and not any(True for _ in m.children()):
            return self.create_proxy("call_function", _layer, args, kwargs)
        return forward(*args, **kwargs)


def _layer(*args: Any, **kwargs: Any) -> Any:
    """Stand for a layer of torch in the traced graph, which is never run."""


def called(model: nn.Module) -> set[int] | None:
    """Return the ids of all modules that the forward calls; None if torch.fx cannot trace the network as a whole."""
    tracer = _Tracer(model)
    try:
        with put_back(model):
            tracer.trace(model)
    except Exception:  # a forward may raise anything for a proxy in place of a tensor
        return None
    return tracer.called
