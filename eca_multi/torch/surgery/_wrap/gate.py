"""An ECA behind a module: the module's child `eca`, called by a forward hook. All names and attributes stay."""

import dis
import inspect
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.jit import ScriptModule, is_scripting  # type: ignore[attr-defined]  # torch.jit lists no names
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.torch._private import child_table, forward_hooks, load_pre_hooks
from eca_multi.torch.layers import ECA

from .old_names import rename_old

NAME = "eca"
OWN_KEY = -1  # torch counts hooks from 0 in each process, so that a hook there replaces one that was pickled
# Tools that fold or fuse these layers ask for exactly these classes, and do not ask for hooks.
FOLDED = {
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU),
    *(nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d),
    *(nn.LazyConvTranspose1d, nn.LazyConvTranspose2d, nn.LazyConvTranspose3d),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
}
_MADE_OF: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # torch's class for each that a gate made of it
MERGING = ("fuse_convs", "switch_to_deploy", "reparameterize")  # of ultralytics, RepVGG and timm
OWN_CHILDREN = {"children", "named_children", "modules", "named_modules", "_modules"}


def gate_output(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """The hook. It holds no layer, so that replicas and copies use their own; TorchScript needs the types."""
    if is_scripting():
        scripted: torch.Tensor = module.eca(output)
        return scripted
    layer = child_table(module).get("eca")
    if layer is None:
        raise UnsupportedModelError(
            f"A module with the hook of an ECA must have the ECA. Received: a {type(module).__name__} without; "
            "a tool has moved the hook (torch.ao's fuse_modules does). Fuse first, and insert ECA then."
        )
    y: torch.Tensor = layer(output)
    return y


def gate_of(module: nn.Module | None) -> ECA | None:
    """Return the ECA that surgery put behind a module."""
    if module is None or NAME not in child_table(module):  # not getattr, which a compiled module answers for another
        return None
    layer = child_table(module)[NAME]
    return layer if isinstance(layer, ECA) and is_behind(layer) else None


def is_behind(module: nn.Module) -> bool:
    """Whether a module is an ECA that surgery put behind another."""
    return isinstance(module, ECA) and module.inserted == "after"


def why_no_gate(module: nn.Module) -> str:
    """Return why no ECA can stand behind a module; "" if one can."""
    if isinstance(module, ScriptModule):
        return "compiled by TorchScript: insert ECA before"
    if runs_children(module):
        return "its forward runs over its children, of which ECA would be one: put it into a module of your own"
    if gate_of(module) is None and hasattr(module, NAME):
        return f"it has an attribute `{NAME}` of its own, which is the name that ECA takes"
    return ""


def merging(module: nn.Module, inside: str) -> str:
    """Return the method by which a module merges layers, one at the path `inside` among them; "" if it has none.

    No gate can stand inside of a branch that is merged, and the branches go as wholes, with what stands in them. Where
    a method exchanges norms alone, which it folds into their neighbours, gates stay everywhere but at these norms.
    """
    for name in MERGING:
        method = getattr(type(module), name, None)
        if method is not None and not (_folds_norms(module, method) and _named(method).isdisjoint(inside.split("."))):
            return name
    fuse = getattr(getattr(type(module), "fuse", None), "__code__", None)
    deleted = [step.argval for step in dis.get_instructions(fuse) if step.opname == "DELETE_ATTR"] if fuse else []
    branches = [child_table(module)[name] for name in deleted if name in child_table(module)]
    return "fuse" if any(branch is not None and any(True for _ in branch.children()) for branch in branches) else ""


def _folds_norms(module: nn.Module, method: Any) -> bool:
    """Whether the children that a method sets or deletes have vectors of parameters alone, as norms do."""
    gone = [child for name in _named(method) if (child := child_table(module).get(name)) is not None]
    return bool(gone) and all(p.ndim < 2 for child in gone for p in child.parameters())


def _named(method: Any) -> set[Any]:
    """Return the attributes that a method sets or deletes, and the texts in it, which may name others."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    steps = list(dis.get_instructions(code)) if code is not None else []
    written = {step.argval for step in steps if step.opname in ("STORE_ATTR", "DELETE_ATTR")}
    return written | {step.argval for step in steps if step.opname == "LOAD_CONST" and isinstance(step.argval, str)}


def runs_children(module: nn.Module) -> bool:
    """Whether a module calls whatever children it has. The names that its methods use tell that."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return True
    kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    code = [getattr(method, "__code__", None) for kind in kinds for name, method in vars(kind).items() if _runs(name)]
    return any(not OWN_CHILDREN.isdisjoint(one.co_names) for one in code if one is not None)


def _runs(method: str) -> bool:
    return method.startswith("forward") or method.startswith("_forward")


def attach(module: nn.Module, layer: ECA) -> None:
    """Put an ECA behind a module. Hooks that the module has already then see the gated output too."""
    reason = why_no_gate(module)
    if reason:
        raise UnsupportedModelError(f"A {type(module).__name__} cannot have an ECA. Received: {reason}.")
    child_table(module)[NAME] = layer
    if gate_output not in forward_hooks(module).values():
        handle = module.register_forward_hook(gate_output)
        _key_apart(forward_hooks(module), handle.id)
        handle = module.register_load_state_dict_pre_hook(rename_old)  # type: ignore[no-untyped-call]  # torch's own
        _key_apart(load_pre_hooks(module), handle.id)
    kind = type_before_parametrizations(module)
    if kind in FOLDED:
        _exchange_class(module, class_apart(kind))


def detach(module: nn.Module) -> None:
    """Undo `attach`."""
    del child_table(module)[NAME]
    for hooks, ours in ((forward_hooks(module), gate_output), (load_pre_hooks(module), rename_old)):
        for key in [key for key, hook in hooks.items() if getattr(hook, "hook", hook) is ours]:
            del hooks[key]
    kind = type_before_parametrizations(module)
    plain: Any = kind.__bases__[0]
    if plain in FOLDED and kind is class_apart(plain):
        _exchange_class(module, plain)


def gate_first(module: nn.Module) -> None:
    """Put the gate's hook before all other hooks, one that was registered with `prepend=True` too."""
    hooks: Any = forward_hooks(module)
    for key in [key for key, hook in hooks.items() if hook is gate_output]:
        hooks.move_to_end(key, last=False)


def _key_apart(hooks: Any, key: int) -> None:
    hooks[OWN_KEY] = hooks.pop(key)
    hooks.move_to_end(OWN_KEY, last=False)


def _exchange_class(module: nn.Module, kind: Any) -> None:
    """Set a module's class, below the class that a parametrization makes for each module, which copies share."""
    if is_parametrized(module):
        made: Any = type(module)
        before = _MADE_OF.get(made)
        if before is not None and before.__bases__ == (kind,) and vars(before).keys() == vars(made).keys():
            kind = before  # the class of before the gate, unless other tensors are parametrized now
        else:
            kind = type(made.__name__, (kind,), dict(vars(made)))
            _MADE_OF[kind] = made
    module.__class__ = kind


@cache
def class_apart(kind: Any) -> Any:
    """Return a subclass that differs from its base in nothing but in being another class.

    torch.fx's conv-bn fusing for one drops a batch norm, hooks and all, if its class is exactly BatchNorm2d.
    """
    body: dict[str, Any] = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce_ex__": _reduced}
    if issubclass(kind, LazyModuleMixin):
        body["cls_to_become"] = class_apart(kind.cls_to_become)
    return type(kind.__name__, (kind,), body)


def _reduced(module: nn.Module, protocol: Any) -> Any:
    return _new_apart, (type(module).__bases__[0],), module.__dict__


def _new_apart(kind: Any) -> nn.Module:
    new = class_apart(kind)
    made: nn.Module = new.__new__(new)
    return made
