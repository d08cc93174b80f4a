"""The classes and functions that a pickle of torch may name, and what each call stands for. None of them is called."""

import codecs
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from eca_multi.checkpoints.stored import DTYPES

from .values import CodeError, Name, Other, Pickled, Storage

_LONGEST_KEY = 64  # bits: longer whole numbers can all share one hash (the multiples of 2**61 - 1)
_ALIASES = {
    "double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16",
}  # fmt: skip
# Each class of storage: NumPy's dtype of its numbers ("" without one), and the bytes of a number.
STORAGES = {
    "Double": ("<f8", 8), "Float": ("<f4", 4), "Half": ("<f2", 2), "BFloat16": ("bfloat16", 2), "Long": ("<i8", 8),
    "Int": ("<i4", 4), "Short": ("<i2", 2), "Char": ("i1", 1), "Byte": ("u1", 1), "Bool": ("?", 1), "Untyped": ("", 1),
    "ComplexFloat": ("", 8), "ComplexDouble": ("", 16), "QInt8": ("", 1), "QUInt8": ("", 1), "QInt32": ("", 4),
}  # fmt: skip


class Dtype:
    """A dtype of NumPy. A pickle makes it first and sets its byte order later."""

    def __init__(self, text: str) -> None:
        self.text, self.order = text, "<"


def known_name(text: str) -> Name:
    """Return the name of a known class or function; raise CodeError for an unknown one."""
    if not _is_known(text):
        raise CodeError(text)
    return Name(text)


def _is_known(text: str) -> bool:
    module, _, name = text.rpartition(".")
    if module in ("torch", "torch.storage", "torch.cuda"):
        return (
            _dtype(text) is not None or name.endswith("Storage") or bool(_OTHER_DTYPE.fullmatch(text)) or text in _INERT
        )
    if module == "numpy.dtypes":
        return name.endswith("DType")
    return text in _CALLS or text in _INERT


def _dtype(text: str) -> str | None:
    """Return NumPy's dtype for a dtype of torch, "torch.float32"; None if NumPy has none."""
    name = text.rpartition(".")[2]
    return DTYPES.get(_ALIASES.get(name, name))


def called(function: Any, arguments: Any) -> Any:
    """Return the value of a call, without the call."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no function")
    make = _CALLS.get(function.text)
    return make(*arguments) if make is not None else Other(function.text)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Pickled:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return Pickled(storage, offset, shape, strides)


def _untyped_tensor(storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    known = _dtype(dtype.text) if isinstance(dtype, Name) else None
    if not isinstance(storage, Storage) or known is None:
        return Other("a tensor of a dtype that NumPy has not")
    return Pickled(storage, offset, shape, strides, known)


def _pairs(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    filled: dict[Any, Any] = {}
    for key, value in pairs:
        filled[safe_key(key)] = value
    return filled


def safe_key(key: Any) -> Any:
    """Return a key that is hashed quickly: a long whole number, or a tuple of tuples, becomes an `Other`."""
    if isinstance(key, int) and key.bit_length() > _LONGEST_KEY:
        return Other("a key")
    return key if isinstance(key, str | int | float | bytes | None) else Other("a key")


def _encoded(text: Any, encoding: Any) -> bytes:
    """Return bytes, which Python 3 pickles as text for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding than latin1")
    return codecs.encode(text, "latin1")


def _numpy_dtype(text: Any, *_: Any) -> Dtype:
    if not isinstance(text, str) or text not in _NUMBERS:
        raise ValueError("a number of a dtype that NumPy has not")
    return Dtype(text)


def _numpy_number(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes):
        raise ValueError("a number of NumPy without a dtype or without bytes")
    (number,) = np.frombuffer(data, np.dtype(f"{dtype.order}{dtype.text}"))
    return number.item()


_NUMBERS = frozenset(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"])
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": lambda value, *_: value,
    "torch._utils._rebuild_parameter_with_state": lambda value, *_: value,
    # A subclass, or a tensor with attributes, is the tensor itself.
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, _, arguments, __: called(rebuild, arguments),
    "collections.OrderedDict": _pairs,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": lambda *_: b"",
    "builtins.bytes": lambda *_: b"",
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
}
# These are data too; their content is dropped.
_INERT = frozenset(
    {
        "argparse.Namespace", "collections.Counter", "collections.defaultdict", "builtins.set",
        "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset", "builtins.complex",
        "__builtin__.complex", "builtins.bytearray", "__builtin__.bytearray", "builtins.dict", "builtins.list",
        "builtins.int", "builtins.float", "torch.Size", "torch.Tensor", "torch.device",
        "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.serialization._get_layout",
        "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_qtensor", "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_wrapper_subclass",
        "torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch.per_tensor_affine", "torch.per_tensor_symmetric", "torch.per_channel_affine",
        "torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams", "torch.cfloat", "torch.cdouble",
    }
)  # fmt: skip
# Each version of torch adds dtypes: torch.uint16, torch.float8_e8m0fnu, torch.bits1x8, torch.complex32.
_OTHER_DTYPE = re.compile(r"torch\.(q?u?int|float|complex|bits)[0-9][a-z0-9_]*")
