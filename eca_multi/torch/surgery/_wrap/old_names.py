"""Names in checkpoints of earlier versions, in which the module before an ECA was a child called `base`."""

from collections.abc import Mapping
from typing import Any

from torch import nn

BEHIND = ".eca.conv.weight"


def rename_old(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded, rename the tensors of this module as they are called now."""
    if is_old(state_dict, prefix, [name for name in module.state_dict() if not name.startswith("eca.")]):
        old = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(f"{prefix}base.")}
        state_dict.update({prefix + key.removeprefix(f"{prefix}base."): value for key, value in old.items()})


def is_old(state_dict: Mapping[str, Any], prefix: str, names: list[str]) -> bool:
    """Whether a module's tensors stand under `base`. The module may have a child called `base` itself."""
    old = sum(f"{prefix}base.{name}" in state_dict for name in names)
    return old > sum(f"{prefix}{name}" in state_dict for name in names)


def plain_path(path: str, state: Mapping[str, Any]) -> str:
    """Return the path of a site as it is called now."""
    parts = path.split(".")
    is_base = [part == "base" and f"{'.'.join(parts[:i])}{BEHIND}" in state for i, part in enumerate(parts)]
    return ".".join(part for part, skipped in zip(parts, is_base, strict=True) if not skipped)
