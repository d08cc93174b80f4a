"""Read a pickle of torch as data: no class is made and no function is called that a file names.

Python's own unpicklers hash a file's keys, allocate what it asks for and make what it names. This one knows the opcodes
of plain data and the names in `allowed.py`. Time and memory grow with the number of bytes, because each opcode does one
small thing:

- `safe_key` replaces a key that is neither text nor a number of 64 bits by an object that equals only itself, because
  the hash of a tuple in a tuple in a tuple takes 2**n steps;
- a tensor is its storage, offset, shape and strides, all unchecked;
- any other object is an `Other`, which has the object's name and no content.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from eca_multi.checkpoints.source import Stream

from .allowed import STORAGES, Dtype, called, known_name, safe_key
from .values import CodeError, Name, Other, Storage

_MOST_STEPS = 300_000  # the largest network with its optimizer takes 100,000
_LONGEST_INT = 32  # bytes
_LARGEST_MEMO = 1 << 64


def read_pickle(stream: Stream, storages: dict[Any, int] | None = None) -> Any:
    """Return the next pickle's content, of dictionaries, lists, tuples, texts, numbers, `Pickled` and `Other`.

    The stream then stands behind the pickle; `storages` gets the bytes of one number for each storage's key.

    Raises:
        CodeError: If the pickle names a class or function that is no data.
        Exception: Whatever a list or a dictionary raises for a broken pickle.
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
    """The stack, its marks, and the memo of one pickle."""

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

    # --- one method for each opcode that takes more than one line

    def pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def put(self, place: int) -> None:
        if place >= _LARGEST_MEMO:
            raise ValueError("more objects than a file can hold")
        self.memo[place] = self.stack[-1]

    def new_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._set(items)

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
            filled[safe_key(key)] = value

    def named(self, argument: str) -> None:
        self.stack.append(known_name(argument.replace(" ", ".", 1)))

    def named_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.stack.append(known_name(f"{module}.{name}"))

    def old_object(self, argument: str | None) -> None:
        raise CodeError(str(argument).replace(" ", ".", 1) if argument else "a class")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(called(function, arguments))

    def build(self, _: Any) -> None:
        """Drop the attributes of an object, except the byte order of NumPy's dtype."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Dtype) and isinstance(state, tuple) and state[1:2] == (">",):
            self.stack[-1].order = ">"

    def persistent(self, _: Any) -> None:
        """Push a storage: ("storage", its class, key, device, length) and, in older files, the view into another."""
        what, kind, key, *rest = self.stack.pop()
        if what not in ("storage", b"storage") or not isinstance(kind, Name) or not isinstance(key, str | int):
            raise ValueError("a persistent object that is no storage")
        if safe_key(key) is not key:
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
_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": _Machine.new_dict,
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.some_tuple(1),
    "TUPLE2": lambda machine, _: machine.some_tuple(2),
    "TUPLE3": lambda machine, _: machine.some_tuple(3),
    "FROZENSET": _Machine.new_set,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": lambda machine, _: machine.since_mark(),
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
