"""Operations of torch.nn and torch.nn.functional with realistic sizes and options, for the audit of the budget."""

from .activations import ACTIVATIONS
from .convolutions import CONVOLUTIONS
from .losses import LOSSES
from .norms import NORMS
from .operation import Operation, audited, shares
from .pooling import POOLING
from .recurrent import RECURRENT
from .resizing import RESIZING
from .tensors import TENSORS

__all__ = ["GROUPS", "OPERATIONS", "Operation", "audited", "shares"]

GROUPS = (ACTIVATIONS, CONVOLUTIONS, LOSSES, NORMS, POOLING, RECURRENT, RESIZING, TENSORS)
OPERATIONS: dict[str, Operation] = {name: operation for group in GROUPS for name, operation in group.items()}
