"""Which tensors may leave the operations that torch's compilers and transforms know."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.jit import is_tracing  # type: ignore[attr-defined]  # torch.jit lists no names
from torch.nn.parameter import Parameter

from ._private import functorch, len_dispatch_modes, len_function_modes

PLAIN = (Tensor, Parameter)  # a DTensor, a fake tensor or a user's subclass takes the tensor lines
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # float64 is for references, which take the tensor lines


def is_eager(x: Tensor, weight: Tensor) -> bool:
    """Whether both are plain tensors in eager mode: not compiled, exported or traced, and no mode watches."""
    return (
        type(x) in PLAIN
        and type(weight) in PLAIN
        and x.dtype in DTYPES
        and weight.dtype in DTYPES
        and not torch.compiler.is_compiling()
        and not is_tracing()  # type: ignore[no-untyped-call]
        and functorch.peek_interpreter_stack() is None  # functionalize knows no autograd.Function
        # A mode that watches or changes operations must see them.
        and len_function_modes() == len_dispatch_modes() == 0
    )


def is_wrapped(*tensors: Tensor | None) -> bool:
    """Whether a transform has wrapped one of the tensors.

    The tensors of torch.func and of autograd's own batches have no memory, and dual numbers take no `out=`.
    """
    return any(
        functorch.is_functorch_wrapped_tensor(t)
        or functorch.is_legacy_batchedtensor(t)
        or unpack_dual(t).tangent is not None  # type: ignore[no-untyped-call]
        for t in tensors
        if t is not None
    )
