"""Every private name of PyTorch that the harness uses, each with its reason and the public way that was tried.

A test resolves each name of the table, and so says which name a new version of PyTorch has lost.
"""

from importlib import import_module
from typing import Any

from torch._C import DisableTorchFunction
from torch._C import _current_graph_task_id as current_graph_task_id
from torch._C import _is_alias_of as is_alias_of  # type: ignore[attr-defined]  # missing in torch's stub
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

__all__ = [
    "DisableTorchFunction",
    "OpOverload",
    "TorchDispatchMode",
    "compile_counters",
    "current_graph_task_id",
    "get_decompositions",
    "is_alias_of",
    "tree_iter",
    "tree_map",
]
PRIVATE_NAMES = {
    "torch._dynamo.utils.counters": (
        "Whether torch.compile compiled a graph or ran eagerly. torch.compiler counts nothing, and fullgraph=True does "
        "not raise where TORCHDYNAMO_DISABLE is set."
    ),
    "torch._ops.OpOverload": "The type of the operations that a dispatch mode gets; torch.ops does not name the type.",
    "torch._ops.OpOverload._opname": "An operation's name without its overload; str(func) gives both in one text.",
    "torch.ops.aten.add.Tensor._schema": (
        "Which arguments an operation writes to, and whether it returns a view; torch.library declares this and does "
        "not read it."
    ),
    "torch._C._is_alias_of": (
        "Whether a result shares memory with an argument. untyped_storage() raises for a sparse tensor."
    ),
    "torch._C._current_graph_task_id": (
        "Whether a backward pass runs when an operation is called; torch.autograd does not tell."
    ),
    "torch.Tensor._is_zerotensor": (
        "Whether autograd gives zeros without memory, which cannot be written to; no public name tells."
    ),
    "torch._C.DisableTorchFunction": (
        "Calls an operation without the modes that replace it. torch._C.DisableTorchFunctionSubclass leaves modes on."
    ),
    "torch._decomp.get_decompositions": (
        "The steps of operations that round several times and that torch.export.default_decompositions leaves whole."
    ),
    "torch.utils._python_dispatch.TorchDispatchMode": (
        "Adds noise after each operation of the backward pass too. torch.overrides.TorchFunctionMode does not see them."
    ),
    "torch.utils._pytree.tree_iter": (
        "The tensors in arguments of any structure. A walk over lists, tuples and dicts would miss registered classes."
    ),
    "torch.utils._pytree.tree_map": (
        "Replaces the tensors in arguments of any structure. A walk of our own would miss registered classes."
    ),
}


def compile_counters() -> Any:
    """Return `torch._dynamo.utils.counters`, imported here: that takes as long as all else of a worker's start."""
    return import_module("torch._dynamo.utils").counters
