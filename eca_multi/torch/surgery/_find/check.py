"""Which networks surgery can change, and what to do with the others."""

from typing import Any

import torch
from torch import nn
from torch.jit import is_tracing  # type: ignore[attr-defined]  # documented, but not in torch.jit.__all__

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch._private import tree_leaves

REMEDIES = {
    "DistributedDataParallel": "Pass model.module, and wrap the result.",
    "DataParallel": "Pass model.module, and wrap the result.",
    "FullyShardedDataParallel": "Insert before sharding, and wrap the result.",
    "FSDPModule": "Insert before fully_shard.",
    "OptimizedModule": "Pass the model from before torch.compile, and compile the result.",
    "ScriptModule": "Insert before torch.jit.script or trace, and script the result.",
    "ECA": "Pass the network that holds it.",
}


SYNCHRONISED = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


def check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module. Received: {type(model).__name__}. "
            "Keras and Flax networks have eca_multi.keras and eca_multi.flax."
        )


def check_model(model: nn.Module) -> None:
    """Refuse anything but a module, and a module that is wrapped, compiled, being traced, or one layer."""
    check_module(model)
    kinds = {kind.__name__ for kind in type(model).__mro__}
    for kind, remedy in REMEDIES.items():
        if kind in kinds:
            raise UnsupportedModelError(f"model must be a plain network. Received: a {kind}. {remedy}")
    if torch.compiler.is_compiling() or is_tracing():  # type: ignore[no-untyped-call]  # torch's own
        raise UnsupportedModelError(
            "model must not be changed while it is traced. Received: a call inside of torch.compile, export or "
            "torch.jit.trace. Insert before."
        )
    if not any(True for _ in model.children()):
        raise UnsupportedModelError(
            f"model must be a network of modules. Received: a {type(model).__name__} alone. "
            "Pass torch.nn.Sequential(model), so that there is a place to put ECA."
        )


def check_inside(model: nn.Module, example_inputs: Any) -> None:
    """Refuse to add parameters below a wrapper that has counted them, and to run a network that lacks numbers."""
    for path, module in model.named_modules():
        for kind in {kind.__name__ for kind in type(module).__mro__}.intersection(SYNCHRONISED):
            raise UnsupportedModelError(
                f"model must not hold a module that synchronises its parameters. Received: {path}, a {kind}, which "
                f"would not know those of ECA. {REMEDIES[kind]}"
            )
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    away = [name for name, tensor in tensors.items() if tensor.is_meta]
    if example_inputs is not None and away and not (len(away) == len(tensors) and on_meta(example_inputs)):
        raise UnsupportedModelError(
            f"model must hold its tensors to be run on example_inputs. Received: {len(away)} of {len(tensors)} on the "
            f"meta device, {away[0]} the first. Load them before, or leave example_inputs out."
        )


def on_meta(example_inputs: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in tree_leaves(example_inputs))
