"""What stands in a network with ECA: a module with ECA behind it, or an ECA in a module's place or in an empty slot."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan
from eca_multi.torch.layers import ECA
from eca_multi.torch.lazy import LazyECA

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Gated(nn.Module):
    """`base`, then `eca` on the output of `base`: old code and old checkpoints do not see the difference.

    An attribute that this module lacks is read from `base` and written to `base`; else `block.bn.momentum = 0.5` would
    set an attribute here that nothing reads. TorchScript understands one tensor in and out; `GatedCall` takes any
    arguments.
    """

    def __init__(self, base: nn.Module, eca: ECA) -> None:
        super().__init__()
        self.base = base
        self.eca = eca
        self.training = base.training
        self.register_load_state_dict_pre_hook(rename_base)  # type: ignore[no-untyped-call]  # torch's own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.eca(self.base(x))
        return y

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name in ("base", "eca"):
                raise  # a copy asks for attributes before the copy has a base
            return getattr(super().__getattr__("base"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_of_base(name):
            setattr(self.base, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_of_base(name):
            delattr(self.base, name)
        else:
            super().__delattr__(name)

    def _is_of_base(self, name: str) -> bool:
        is_own = name in ("base", "eca") or name in vars(self) or hasattr(type(self), name)
        return not is_own and hasattr(self.base, name)


class GatedCall(Gated):
    """For a base that is called with more than one tensor."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.eca(self.base(*args, **kwargs))
        return y


def rename_base(module: Gated, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the tensors of a checkpoint from before the insertion: there the base has this module's own name."""
    if is_plain(state_dict, prefix, module.base.state_dict()):
        old = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
        state_dict.update({f"{prefix}base.{key.removeprefix(prefix)}": value for key, value in old.items()})


def is_plain(state_dict: Mapping[str, Any], prefix: str, of_base: Mapping[str, Any]) -> bool:
    """Whether tensors stand under `prefix` as in the base alone. The base may have a child called `base` too."""
    if f"{prefix}eca.conv.weight" in state_dict and any(key.startswith(f"{prefix}base.") for key in state_dict):
        return False
    gated = sum(f"{prefix}base.{key}" in state_dict for key in of_base)
    plain = sum(f"{prefix}{key}" in state_dict for key in of_base)
    if gated == plain == 0:
        return not any(key.startswith((f"{prefix}base.", f"{prefix}eca.")) for key in state_dict)
    return plain > gated


def base_of(module: nn.Module) -> nn.Module:
    """Return the module without the ECA behind it."""
    return module.base if isinstance(module, Gated) else module


def is_inserted(module: nn.Module) -> bool:
    """Whether surgery made an ECA layer; a network may have ECAs of its author's own."""
    return isinstance(module, ECA) and bool(getattr(module, "inserted", ""))


def layer_for(model: nn.Module, entry: ECAEntry, plan: ECAPlan) -> ECA:
    """Return the ECA for a site, in the dtype and on the device of the site's own parameters."""
    above = model.get_submodule(parent_of(entry.path)[0])
    near = above if entry.action == "fill" else model.get_submodule(entry.path)
    like = next((tensor for module in (near, above, model) for tensor in _floating(module)), None)
    options: dict[str, Any] = {"gate": plan.gate, "init": plan.init, "channel_axis": entry.channel_axis}
    if like is not None:
        options |= {"device": like.device, "dtype": like.dtype}
    if entry.channels:
        layer: ECA = ECA(entry.channels, entry.kernel_size, **options)
    else:
        layer = LazyECA(entry.kernel_size, **options)
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
    base = model.get_submodule(entry.path)
    takes_more = isinstance(base, TRANSPOSED) or any(True for _ in base.children())
    new = layer if entry.action == "replace" else (GatedCall if takes_more else Gated)(base, layer)
    _exchange(model, base, new)


def unwrap(model: nn.Module, module: nn.Module) -> None:
    """Undo `wrap` for a gated module or for the ECA in a slot."""
    if isinstance(module, Gated):
        _exchange(model, module, module.base)
    elif module.filled == "Identity":
        _exchange(model, module, nn.Identity())
    else:
        for path in _paths(model, module):
            above, name = parent_of(path)
            delattr(model.get_submodule(above), name)
            setattr(model.get_submodule(above), name, None)


def _exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in another's place under all names; the order of the children stays."""
    for path in _paths(model, old):
        model.set_submodule(path, new)


def _paths(model: nn.Module, wanted: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules(remove_duplicate=False) if module is wanted]


def parent_of(path: str) -> tuple[str, str]:
    """Return the path of the module above, and the last name."""
    above, _, name = path.rpartition(".")
    return above, name
