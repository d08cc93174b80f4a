"""The pickles in torch's files, read as data: no class is made and no function is called that a file names.

Python's own unpicklers hash what stands in a file, allocate what it asks for and make what it names. This one knows the
opcodes that plain data need, and of the names in a file those below, each by what it stands for here. Time and memory
grow with the number of bytes, for every opcode does one small thing:

- a key of a dictionary that is neither text nor a number of 64 bits (a tuple in a tuple in a tuple has 2**n parts to
  hash) is replaced by something that is equal to itself alone;
- a tensor is its storage, offset, shape and strides, which nobody has looked at yet;
- what is none of these is an `Other`, which says what it is and holds nothing.
"""

import codecs
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from eca_multi.checkpoints import Stream

_MOST_STEPS = 300_000  # the largest network with its optimizer takes 100,000
_LONGEST_INT = 32  # bytes
_LONGEST_KEY = 64  # bits: of longer whole numbers any count has one hash (the multiples of 2**61 - 1)
# Of each class of storage, how NumPy calls the numbers in it ("" where it has none such), and their bytes.
STORAGES = {
    "Double": ("<f8", 8), "Float": ("<f4", 4), "Half": ("<f2", 2), "BFloat16": ("bfloat16", 2), "Long": ("<i8", 8),
    "Int": ("<i4", 4), "Short": ("<i2", 2), "Char": ("i1", 1), "Byte": ("u1", 1), "Bool": ("?", 1), "Untyped": ("", 1),
    "ComplexFloat": ("", 8), "ComplexDouble": ("", 16), "QInt8": ("", 1), "QUInt8": ("", 1), "QInt32": ("", 4),
}  # fmt: skip
_DTYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "bfloat16", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?", "double": "<f8", "float": "<f4", "half": "<f2",
    "long": "<i8", "int": "<i4", "short": "<i2",
}  # fmt: skip


class CodeError(ValueError):
    """A pickle that names what is no data; the text is its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """What is no tensor, no number and no text."""

    what: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Where numbers are: the key under which the file has them, their dtype ("bfloat16" or NumPy's), and of a view
    into another storage where it begins."""

    key: Any
    dtype: str
    view: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """A tensor as a file describes it; nothing of it is checked."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any
    dtype: str = ""  # where it is not the storage's


@dataclass(frozen=True, slots=True, eq=False)
class _Name:
    """A class or function that a file names, which is known here."""

    text: str


class _Dtype:
    """NumPy's own: its order of bytes comes after it was made."""

    def __init__(self, text: str) -> None:
        self.text, self.order = text, "<"


def read_pickle(stream: Stream, storages: dict[Any, int] | None = None) -> Any:
    """Return the next pickle's content, of dictionaries, lists, tuples, texts, numbers, `Pickled` and `Other`.

    Args:
        stream: It stands behind the pickle then.
        storages: Is filled with the bytes of one number, by the storage's key.

    Raises:
        CodeError: If it names what is no data.
        Exception: Any that a list or a dictionary raises, for a pickle that is broken.
    """
    machine = _Machine({} if storages is None else storages)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]  # as a file
        if step > _MOST_STEPS:
            raise ValueError("a pickle of more objects than any checkpoint of these networks has")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.carry_out(opcode.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """The stack, the marks in it and the memo of one pickle."""

    def __init__(self, storages: dict[Any, int]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def carry_out(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(_short(argument))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the opcode {name}, which no file of tensors has")

    def since_mark(self) -> list[Any]:
        place = self.marks.pop()
        items = self.stack[place:]
        del self.stack[place:]
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a pickle that takes a {type(self.stack[-1]).__name__} for a {kind.__name__}")
        return self.stack[-1]

    # --- one method for each opcode that is more than a constant

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, place: int) -> None:
        if place >> _LONGEST_KEY:
            raise ValueError("more objects than a file can hold")
        self.memo[place] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def new_list(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def new_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._set(items)

    def new_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def some_tuple(self, length: int) -> None:
        items = self.stack[-length:]
        if len(items) < length:
            raise IndexError("a pickle that takes more than there is")
        self.stack[-length:] = [tuple(items)]

    def new_set(self, _: Any) -> None:
        self.since_mark()
        self.stack.append(Other("a set"))

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self.top(list).append(item)

    def appends(self, _: Any) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def set_item(self, _: Any) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        self._set(items[::-1])

    def set_items(self, _: Any) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a dictionary with a key without a value")
        filled = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            filled[_key(key)] = value

    def add_items(self, _: Any) -> None:
        self.since_mark()

    def named(self, argument: str) -> None:
        self.stack.append(_name(argument.replace(" ", ".", 1)))

    def named_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.stack.append(_name(f"{module}.{name}"))

    def old_object(self, argument: str | None) -> None:
        raise CodeError(str(argument).replace(" ", ".", 1) if argument else "a class")

    def call(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(called, arguments))

    def build(self, _: Any) -> None:
        """Attributes of an object: none is kept, but the order of bytes of NumPy's dtype."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Dtype) and isinstance(state, tuple) and state[1:2] == (">",):
            self.stack[-1].order = ">"

    def persistent(self, _: Any) -> None:
        """A storage: ("storage", its class, key, device, length) and, in older files, the view into another."""
        what, kind, key, *rest = self.stack.pop()
        if what not in ("storage", b"storage") or not isinstance(kind, _Name) or not isinstance(key, str | int):
            raise ValueError("a persistent object that is no storage")
        if _key(key) is not key:
            raise ValueError("a storage whose key is a number of too many digits")
        view = rest[2][1] if len(rest) > 2 and rest[2] is not None else 0
        name = kind.text.rpartition(".")[2].removesuffix("Storage")
        dtype, self.storages[key] = STORAGES[name]
        self.stack.append(Storage(key, dtype, view))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Other("a set"),
}
_LITERALS = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
        "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "LIST": _Machine.new_list,
    "DICT": _Machine.new_dict,
    "TUPLE": _Machine.new_tuple,
    "TUPLE1": lambda machine, _: machine.some_tuple(1),
    "TUPLE2": lambda machine, _: machine.some_tuple(2),
    "TUPLE3": lambda machine, _: machine.some_tuple(3),
    "FROZENSET": _Machine.new_set,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_on_stack,
    "INST": _Machine.old_object,
    "OBJ": _Machine.old_object,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _short(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 8 * _LONGEST_INT:
        raise ValueError("a whole number of more digits than any checkpoint needs")
    return value


# --- what a file may name ------------------------------------------------------------------------------------------


def _name(text: str) -> _Name:
    if not _is_known(text):
        raise CodeError(text)
    return _Name(text)


def _is_known(text: str) -> bool:
    module, _, name = text.rpartition(".")
    if module in ("torch", "torch.storage", "torch.cuda"):
        return name in _DTYPES or name.endswith("Storage") or bool(_OTHER_DTYPE.fullmatch(text)) or text in _INERT
    if module == "numpy.dtypes":
        return name.endswith("DType")
    return text in _CALLS or text in _INERT


def _called(called: Any, arguments: Any) -> Any:
    if not isinstance(called, _Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of what is no function")
    make = _CALLS.get(called.text)
    return make(*arguments) if make is not None else Other(called.text)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Pickled:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return Pickled(storage, offset, shape, strides)


def _untyped_tensor(storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    known = _DTYPES.get(dtype.text.rpartition(".")[2]) if isinstance(dtype, _Name) else None
    if not isinstance(storage, Storage) or known is None:
        return Other("a tensor of a dtype that NumPy has not")
    return Pickled(storage, offset, shape, strides, known)


def _of_type(rebuild: Any, _: Any, arguments: Any, __: Any) -> Any:
    """A tensor's subclass, or a tensor with attributes: the tensor itself."""
    return _called(rebuild, arguments)


def _first(value: Any, *_: Any) -> Any:
    return value


def _pairs(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    filled: dict[Any, Any] = {}
    for key, value in pairs:
        filled[_key(key)] = value
    return filled


def _key(key: Any) -> Any:
    if isinstance(key, int) and key.bit_length() > _LONGEST_KEY:
        return Other("a key")
    return key if isinstance(key, str | int | float | bytes | None) else Other("a key")


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in another encoding than latin1")
    return codecs.encode(text, "latin1")


def _numpy_dtype(text: Any, *_: Any) -> _Dtype:
    if not isinstance(text, str) or text not in _NUMBERS:
        raise ValueError("a number of a dtype that NumPy has not")
    return _Dtype(text)


def _numpy_number(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise ValueError("a number of NumPy without a dtype or without bytes")
    (number,) = np.frombuffer(data, np.dtype(f"{dtype.order}{dtype.text}"))
    return number.item()


def _empty_bytes(*_: Any) -> bytes:
    return b""


_NUMBERS = frozenset(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"])
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "collections.OrderedDict": _pairs,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _empty_bytes,
    "builtins.bytes": _empty_bytes,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
}
# Data as well, of which nothing is taken.
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
# torch gets more of them with each version: torch.uint16, torch.float8_e8m0fnu, torch.bits1x8, torch.complex32.
_OTHER_DTYPE = re.compile(r"torch\.(q?u?int|float|complex|bits)[0-9][a-z0-9_]*")
