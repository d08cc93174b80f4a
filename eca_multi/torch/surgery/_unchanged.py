"""Whatever is raised in the midst of a surgery, the network is put back: its tree, flags, hooks and numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from eca_multi._undo import undone_on_error


@contextmanager
def unchanged_on_error(model: nn.Module, is_run: bool = False) -> Iterator[None]:
    """Put the network back if the block raises, Ctrl-C included, wherever in it that happens.

    Args:
        model: What each of its modules holds is noted: attributes, and the tables of children, tensors and hooks. The
            parameters' own numbers are not, which surgery never writes.
        is_run: Whether the block runs the network, which may write its buffers.
    """
    undo: list[Any] = [partial(_restore, module, *_noted(module)) for module in model.modules()]
    undo += [partial(_restore_random_state, device, state) for device, state in _random_states(model)]
    if is_run:
        undo += [partial(_restore_buffer, one, one.detach().clone()) for one in model.buffers() if not one.is_meta]
    with undone_on_error(undo):
        yield


@contextmanager
def put_back(module: nn.Module) -> Iterator[None]:
    """Put a module's attributes and tables back at the end: torch.fx keeps constants that it meets as attributes."""
    noted = _noted(module)
    try:
        yield
    finally:
        _restore(module, *noted)


def _noted(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, dict[Any, Any]]]]:
    attributes = dict(vars(module))
    return attributes, [(table, dict(table)) for table in attributes.values() if isinstance(table, dict)]


def _restore(module: nn.Module, attributes: dict[str, Any], tables: list[tuple[Any, dict[Any, Any]]]) -> None:
    for kept, content in ((vars(module), attributes), *tables):
        kept.clear()
        kept.update(content)  # in the old order too, which is that of the children


def _random_states(model: nn.Module) -> list[tuple[torch.device, torch.Tensor]]:
    """Of the generators that a new layer's kernel may be drawn from."""
    devices = {one.device for one in (*model.parameters(), *model.buffers()) if one.device.type not in ("cpu", "meta")}
    states = [(device, torch.get_device_module(device).get_rng_state(device)) for device in devices]
    return [(torch.device("cpu"), torch.get_rng_state()), *states]


def _restore_random_state(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def _restore_buffer(buffer: torch.Tensor, old: torch.Tensor) -> None:
    with torch.no_grad():
        buffer.copy_(old)
