"""Every private name of PyTorch that this package uses, each with its reason and the public way that was tried.

A test resolves each name of the table, so that it says which name a new version of PyTorch has lost.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import nn
from torch._C import _current_graph_task_id as current_graph_task
from torch._C import _functorch as functorch
from torch._C import _len_torch_dispatch_stack as len_dispatch_modes
from torch._C import _len_torch_function_stack as len_function_modes
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

__all__ = [
    "PRIVATE_NAMES", "NormBase", "child_table", "forward_hooks", "functorch", "in_backward", "len_dispatch_modes",
    "len_function_modes", "load_pre_hooks", "tree_flatten", "tree_leaves", "tree_unflatten", "versions_of",
]  # fmt: skip
PRIVATE_NAMES = {
    "torch._C._current_graph_task_id": (
        "Whether a backward pass runs: activation checkpointing then calls a layer once more, whose gate must not be "
        "recorded twice. torch.autograd tells nothing of a pass that runs."
    ),
    "torch._C._functorch.peek_interpreter_stack": (
        "Whether a transform of torch.func runs; functionalize knows no autograd.Function. torch.func tells nothing "
        "of a transform that runs."
    ),
    "torch._C._functorch.is_functorch_wrapped_tensor": (
        "Whether a transform of torch.func wraps a tensor, which then has no memory. `type(x)` is Tensor in and out of "
        "a transform, and torch.func has no test."
    ),
    "torch._C._functorch.is_legacy_batchedtensor": (
        "Whether autograd wraps a tensor for a batch of gradients (is_grads_batched). Such a tensor has no memory, and "
        "no public name tells."
    ),
    "torch._C._len_torch_dispatch_stack": (
        "Whether a TorchDispatchMode watches operations; a kernel of our own would hide them. "
        "torch.utils._python_dispatch is private too."
    ),
    "torch._C._len_torch_function_stack": (
        "Whether a TorchFunctionMode watches operations; a kernel of our own would hide them. torch.overrides has the "
        "class and no test."
    ),
    "torch.nn.modules.batchnorm._NormBase": (
        "The base of all batch and instance norms. A list of the public classes misses the norms of other libraries "
        "that derive from the base, apex's SyncBatchNorm for one."
    ),
    "torch.utils._pytree.tree_flatten": (
        "To put other tensors in the place of a network's inputs, which may be nested, for the probe of causality; "
        "as for tree_leaves, torch.utils has no public registry."
    ),
    "torch.utils._pytree.tree_unflatten": "The way back from tree_flatten, and like it without a public registry.",
    "torch.utils._pytree.tree_leaves": (
        "The tensors in a network's outputs. A walk over lists, tuples and dicts misses the output classes that "
        "libraries register there, those of transformers for one; torch.utils has no public registry."
    ),
    "torch.nn.Module()._modules": (
        "The table of a module's children, in which a gate keeps its place; `named_children` leaves out a child's "
        "second name and empty slots, and shows no change that a tool makes."
    ),
    "torch.nn.Module()._forward_hooks": (
        "Whether a module has the hook of an ECA, and to take out the hook: a hook's handle is lost when a network is "
        "copied or pickled, and torch.nn lists no hooks."
    ),
    "torch.nn.Module()._load_state_dict_pre_hooks": (
        "To take out the hook that renames keys of older files; as for _forward_hooks, a copied network has no handle."
    ),
    "torch.nn.Module().state_dict()._metadata": (
        "The versions of the modules in a state dict, without which some modules refuse it; `dict(state)` and every "
        "other public copy drops the versions."
    ),
}


def in_backward() -> bool:
    """Whether autograd runs a backward pass in this thread."""
    return current_graph_task() != -1


def child_table(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return a module's children by name: its own table."""
    return module._modules


def forward_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """Return a module's forward hooks by number: its own table."""
    return module._forward_hooks


def load_pre_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """Return a module's hooks before the loading of a state dict by number: its own table."""
    return module._load_state_dict_pre_hooks


def versions_of(state: Any) -> Mapping[str, Any]:
    """Return the versions of modules that a state dict carries, by path."""
    versions: Mapping[str, Any] = state._metadata
    return versions
