"""Put a torch network back after an exception in the midst of a surgery: its tree, flags, hooks and numbers."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from eca_multi._undo import undone_on_error
from eca_multi.torch._private import child_table

Noted = tuple[type[nn.Module], list[tuple[Any, dict[Any, Any]]]]
TABLES = (dict, OrderedDict)  # the tables of torch; a table of a user's own class may refuse changes


@contextmanager
def unchanged_on_error(model: nn.Module, is_run: bool = False) -> Iterator[None]:
    """Put the network back if the block raises anywhere, also by Ctrl-C.

    Args:
        model: Put back are each module's class and attributes, and the tables of children, tensors and hooks. Surgery
            never writes the numbers in parameters, so these are not kept; a lazy parameter becomes lazy again.
        is_run: Whether the block runs the network, which may write the network's buffers.
    """
    tensors = (*model.parameters(), *model.buffers())
    undo: list[Any] = [partial(_make_lazy, tensor, type(tensor), tensor.data) for tensor in tensors if is_lazy(tensor)]
    undo += [partial(_restore, module, *_noted(module)) for module in model.modules()]
    undo += [partial(_restore_random_state, device, state) for device, state in _random_states(model)]
    if is_run:
        undo += [partial(_restore_buffer, buffer, buffer.detach().clone()) for buffer in buffers_with_values(model)]
    with undone_on_error(undo):
        yield


@contextmanager
def put_back(module: nn.Module) -> Iterator[None]:
    """Put a module's attributes and tables back at the end: torch.fx stores constants of a forward as attributes."""
    noted = _noted(module)
    try:
        yield
    finally:
        _restore(module, *noted)


def buffers_with_values(model: nn.Module) -> list[torch.Tensor]:
    """Return the buffers that a run of the network may write: those neither on the meta device nor lazy."""
    return [buffer for buffer in model.buffers() if not buffer.is_meta and not is_lazy(buffer)]


def _noted(module: nn.Module) -> Noted:
    tables = [vars(module), child_table(module), *(table for table in vars(module).values() if type(table) in TABLES)]
    return type(module), [(table, dict(table)) for table in tables]


def _restore(module: nn.Module, kind: type[nn.Module], tables: list[tuple[Any, dict[Any, Any]]]) -> None:
    if type(module) is not kind:  # the first run of a lazy module changes the module's class
        module.__class__ = kind
    for kept, content in tables:
        if not _is_same(kept, content):  # another thread may use a table that has not changed
            kept.clear()
            kept.update(content)  # the order is that of the children


def _is_same(kept: dict[Any, Any], content: dict[Any, Any]) -> bool:
    """Whether both tables hold the same objects in the same order; compare by `is`, for a user's `==` may raise."""
    pairs = zip(kept.items(), content.items(), strict=False)
    return len(kept) == len(content) and all(a is b and x is y for (a, x), (b, y) in pairs)


def _make_lazy(tensor: torch.Tensor, kind: type[torch.Tensor], data: torch.Tensor) -> None:
    if not is_lazy(tensor):
        tensor.data = data
        tensor.__class__ = kind


def _random_states(model: nn.Module) -> list[tuple[torch.device, torch.Tensor]]:
    """Return the states of the generators from which a new layer's kernel may be drawn, if torch can read them."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    states = [(d, getattr(torch, d.type).get_rng_state(d)) for d in devices if _has_random_state(d)]
    return [(torch.device("cpu"), torch.get_rng_state()), *states]


def _has_random_state(device: torch.device) -> bool:
    """Whether torch has a module with the device's generator; XLA's devices have none."""
    return device.type != "cpu" and hasattr(getattr(torch, device.type, None), "get_rng_state")


def _restore_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        getattr(torch, device.type).set_rng_state(state, device)


def _restore_buffer(buffer: torch.Tensor, old: torch.Tensor) -> None:
    with torch.no_grad():
        buffer.copy_(old)
