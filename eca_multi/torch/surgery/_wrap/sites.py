"""Put ECAs into a network and take them out: behind a module, in a module's place, or into an empty slot."""

import sys
from typing import Any

import torch
from torch import nn

from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch._private import child_table
from eca_multi.torch.layers import ECA
from eca_multi.torch.lazy import LazyECA

from .children import Children
from .gate import attach, detach, gate_of


def is_inserted(module: nn.Module) -> bool:
    """Whether surgery made an ECA layer; a network may have ECAs of its author's own."""
    return isinstance(module, ECA) and bool(getattr(module, "inserted", ""))


def layer_for(model: nn.Module, entry: ECAEntry, plan: ECAPlan) -> ECA:
    """Return the ECA for a site, in the dtype and on the device of the site's own parameters."""
    above = model.get_submodule(parent_of(entry.path)[0])
    near = above if entry.action == "fill" else model.get_submodule(entry.path)
    like = next((tensor for module in (near, above, model) for tensor in _floating(module)), None)
    options: dict[str, Any] = {"gate": plan.gate, "init": plan.init, "channel_axis": entry.channel_axis, **entry.axes}
    if like is not None:
        options |= {"device": like.device, "dtype": like.dtype}
    with torch.inference_mode(False):  # a kernel made in inference mode could never be trained
        layer: ECA = (
            ECA(entry.channels, entry.kernel_size, **options)
            if entry.channels
            else LazyECA(entry.kernel_size, **options)
        )
    layer.inserted = entry.action
    return layer.train(near.training)


def _floating(module: nn.Module) -> list[torch.Tensor]:
    parameters = [p for p in module.parameters() if p.dtype.is_floating_point]
    return parameters + [b for b in module.buffers() if b.dtype.is_floating_point]


def wrap(model: nn.Module, entry: ECAEntry, layer: ECA) -> None:
    """Put an ECA behind a site, in the site's place, or into an empty slot, under all names of the site."""
    if entry.action == "fill":
        above, name = parent_of(entry.path)
        block = model.get_submodule(above)
        layer.filled = type(getattr(block, name)).__name__
        setattr(block, name, layer)
        return
    site = model.get_submodule(entry.path)
    if entry.action == "replace":
        _exchange(model, site, layer)
        return
    attach(site, layer)
    for owner in _owners(model, site):
        if type(child_table(owner)) is not Children:
            vars(owner)["_modules"] = Children(child_table(owner))


def unwrap(model: nn.Module, module: nn.Module) -> None:
    """Undo `wrap` for a module with ECA behind it or for the ECA in a slot."""
    if gate_of(module) is not None:
        detach(module)
        for owner in _owners(model, module):
            if not any(map(gate_of, child_table(owner).values())):
                vars(owner)["_modules"] = dict(child_table(owner))
    elif module.filled == "Identity":
        _exchange(model, module, nn.Identity())
    else:
        for path in _paths(model, module):
            above, name = parent_of(path)
            delattr(model.get_submodule(above), name)
            setattr(model.get_submodule(above), name, None)


def forget_compiled() -> None:
    """Let torch.compile compile anew what it has compiled: its code does not ask again whether a module has hooks."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in another's place under all names; the order of the children stays."""
    for path in _paths(model, old):
        model.set_submodule(path, new)


def _owners(model: nn.Module, module: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(parent_of(path)[0]) for path in _paths(model, module)]


def _paths(model: nn.Module, wanted: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules(remove_duplicate=False) if module is wanted]


def parent_of(path: str) -> tuple[str, str]:
    """Return the path of the module above, and the last name."""
    above, _, name = path.rpartition(".")
    return above, name
