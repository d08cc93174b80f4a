"""Paths in a tree of modules."""

from torch import nn


def join(above: str, name: str) -> str:
    return ".".join(part for part in (above, name) if part)


def parent_of(path: str) -> tuple[str, str]:
    above, _, name = path.rpartition(".")
    return above, name


def parents(model: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every place that a module hangs in."""
    return [(above, name) for above in model.modules() for name, child in above._modules.items() if child is module]
