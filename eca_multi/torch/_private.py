"""Every private name of PyTorch that this package uses, each with its reason and the public way that was tried.

A test resolves each name of the table, so that it says which name a new version of PyTorch has lost.
"""

from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.utils._pytree import tree_leaves

__all__ = ["PRIVATE_NAMES", "NormBase", "tree_leaves"]
PRIVATE_NAMES = {
    "torch.nn.modules.batchnorm._NormBase": (
        "The base of all batch and instance norms. A list of the public classes misses the norms of other libraries "
        "that derive from the base, apex's SyncBatchNorm for one."
    ),
    "torch.utils._pytree.tree_leaves": (
        "The tensors in a network's outputs. A walk over lists, tuples and dicts misses the output classes that "
        "libraries register there, those of transformers for one; torch.utils has no public registry."
    ),
}
