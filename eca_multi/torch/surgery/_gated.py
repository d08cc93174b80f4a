"""A module with ECA behind it, in the module's place: old code and old checkpoints do not see the difference."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eca_multi.torch.layers import ECA


class Gated(nn.Module):
    """`base`, then `eca` on its output. What is no attribute of its own is read from and written to `base`.

    Without the writing, `block.bn.momentum = 0.5` would land here and do nothing. The one tensor in and out is what
    TorchScript understands; `GatedCall` takes any arguments.
    """

    def __init__(self, base: nn.Module, eca: ECA) -> None:
        super().__init__()
        self.base = base
        self.eca = eca
        self.training = base.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.eca(self.base(x))
        return y

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "base" not in self.__dict__.get("_modules", {}):
                raise  # a copy that is being made asks before there is a base
            return getattr(self._modules["base"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_of_base(name):
            setattr(self._modules["base"], name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_of_base(name):
            delattr(self._modules["base"], name)
        else:
            super().__delattr__(name)

    def _is_of_base(self, name: str) -> bool:
        modules = self.__dict__.get("_modules", {})
        if "base" not in modules or name in modules or name in self.__dict__ or hasattr(type(self), name):
            return False
        return hasattr(modules["base"], name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A checkpoint from before the insertion has the base's tensors under this module's own name."""
        if is_plain(state_dict, prefix, self.base.state_dict()):
            old = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
            state_dict.update({f"{prefix}base.{key.removeprefix(prefix)}": value for key, value in old.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


class GatedCall(Gated):
    """For a base that is called with more than one tensor."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.eca(self.base(*args, **kwargs))
        return y


def is_plain(state_dict: Mapping[str, Any], prefix: str, own: Mapping[str, Any]) -> bool:
    """Whether tensors stand under `prefix` as in the base alone. A module inside of it may be called `base` too."""
    if f"{prefix}eca.conv.weight" in state_dict and any(key.startswith(f"{prefix}base.") for key in state_dict):
        return False
    gated = sum(f"{prefix}base.{key}" in state_dict for key in own)
    plain = sum(f"{prefix}{key}" in state_dict for key in own)
    if gated == plain == 0:
        return not any(key.startswith((f"{prefix}base.", f"{prefix}eca.")) for key in state_dict)
    return plain > gated
