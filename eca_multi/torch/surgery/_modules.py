"""What a module is, by its class: the kinds that surgery knows, and where each module hangs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch.layers import ECA

from ._gated import Gated

CONVS = (_ConvNd,)
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PASSING = {"Identity", "StochasticDepth", "DropPath"}  # by name: each library has its own


@dataclass(frozen=True)
class Found:
    """A module and all its paths, the first one first."""

    module: nn.Module
    path: str
    aliases: tuple[str, ...]


def walk(model: nn.Module) -> list[Found]:
    """All modules in the network's order and under the names that they have without ECA."""
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for path, module in _descend(model, "", ()):
        paths.setdefault(id(module), []).append(path)
        modules[id(module)] = module
    return [Found(modules[key], first, tuple(rest)) for key, (first, *rest) in paths.items()]


def _descend(module: nn.Module, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    if isinstance(module, ECA):
        return
    for name, child in base_of(module)._modules.items():
        if child is not None and id(child) not in above:
            yield from _descend(child, f"{path}.{name}" if path else name, (*above, id(module)))


def base_of(module: nn.Module) -> nn.Module:
    """The module without the ECA behind it."""
    return module.base if isinstance(module, Gated) else module


def is_container(module: nn.Module) -> bool:
    """A list of modules: calling code reaches into it by index."""
    return isinstance(module, CONTAINERS) and type(module).forward in {kind.forward for kind in CONTAINERS}


def is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def is_passing(module: nn.Module) -> bool:
    """A module that leaves the tensor as it is in evaluation: the gate goes before it."""
    return isinstance(module, _DropoutNd) or type(module).__name__ in PASSING


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(inner, CONVS) for inner in module.modules())


def is_channels_last_norm(module: nn.Module) -> bool:
    """LayerNorm of torch is over the last axis; the LayerNorm2d of other libraries turns the axes itself."""
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) and not re.search(r"[123]d$", type(module).__name__)


def check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module. Received: {type(model).__name__}. "
            "Keras and Flax networks have eca_multi.keras and eca_multi.flax."
        )


def check_model(model: nn.Module) -> None:
    """Raise for what is no network that can be changed.

    Raises:
        TypeError, UnsupportedModelError
    """
    check_module(model)
    kinds = {kind.__name__ for kind in type(model).__mro__}
    remedies = {
        "DistributedDataParallel": "Pass model.module, and wrap the result.",
        "DataParallel": "Pass model.module, and wrap the result.",
        "FullyShardedDataParallel": "Insert before sharding, and wrap the result.",
        "FSDPModule": "Insert before fully_shard.",
        "OptimizedModule": "Pass the model from before torch.compile, and compile the result.",
        "ScriptModule": "Insert before torch.jit.script or trace, and script the result.",
        "ECA": "Pass the network that holds it.",
        "Gated": "Pass the network that holds it.",
    }
    for kind, remedy in remedies.items():
        if kind in kinds:
            raise UnsupportedModelError(f"model must be a plain network. Received: a {kind}. {remedy}")
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        raise UnsupportedModelError(
            "model must not be changed while it is traced. Received: a call inside of torch.compile, export or "
            "torch.jit.trace. Insert before."
        )
    if not any(True for _ in model.children()):
        raise UnsupportedModelError(
            f"model must be a network of modules. Received: a {type(model).__name__} alone. "
            "Pass torch.nn.Sequential(model), so that there is a place to put ECA."
        )
