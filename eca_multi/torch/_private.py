"""Every private name of PyTorch that this package uses, each with its reason and the public way that was tried.

A test resolves each name of the table, so that it says which name a new version of PyTorch has lost.
"""

from torch._C import _functorch as functorch
from torch._C import _len_torch_dispatch_stack as len_dispatch_modes
from torch._C import _len_torch_function_stack as len_function_modes
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.utils._pytree import tree_leaves

__all__ = ["PRIVATE_NAMES", "NormBase", "functorch", "len_dispatch_modes", "len_function_modes", "tree_leaves"]
PRIVATE_NAMES = {
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
    "torch.utils._pytree.tree_leaves": (
        "The tensors in a network's outputs. A walk over lists, tuples and dicts misses the output classes that "
        "libraries register there, those of transformers for one; torch.utils has no public registry."
    ),
}
