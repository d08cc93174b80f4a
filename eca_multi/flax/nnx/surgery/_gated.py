"""ECA on a module: the instance's class becomes a subclass that passes the output through its child `eca`.

The instance stays the same object under the same names, so that its variables keep their paths: `nnx.state` of the
network only gains the kernels. A wrapper module would rename them, and a mixin has another layout of instances, which
Python refuses for a change of class.
"""

import copyreg
import functools
import types
from typing import Any

import jax
from flax import nnx

from eca_multi.flax.nnx.layers import ECA

NAME = "eca"


class ReplacingECA(ECA):
    """ECA in the place of a module of the class named `replaced`; further arguments of the call are not for it."""

    replaced: str = ""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        return super().__call__(x)


@functools.cache
def gated_class(base: Any) -> type[nnx.Module]:
    """Return the subclass whose output is gated; always the same one, so that graph definitions stay equal."""

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.eca(base.__call__(self, *args, **kwargs))

    meta: Any = type(base)
    return subclass(base, "WithECA", _gated_meta(meta), {"__call__": __call__, "_eca_base": base})


def subclass(base: type[nnx.Module], suffix: str, meta: type, members: dict[str, Any]) -> type[nnx.Module]:
    """Return a subclass of one class, registered with JAX just if that is."""
    members = {
        "__module__": base.__module__,
        "__qualname__": f"{base.__qualname__}{suffix}",
        "__doc__": base.__doc__,
        **members,
    }
    given = {"metaclass": meta, "pytree": base._pytree__is_pytree}
    return types.new_class(f"{base.__name__}{suffix}", (base,), given, lambda space: space.update(members))


@functools.cache
def _gated_meta(meta: Any) -> type:
    """A class made at run time cannot be found by name: pickle makes it again from its base."""
    gated = type("GatedMeta", (meta,), {})
    copyreg.pickle(gated, _reduced)
    return gated


def _reduced(cls: Any) -> tuple[Any, tuple[Any]]:
    return gated_class, (cls._eca_base,)


def is_gated(module: Any) -> bool:
    return "_eca_base" in vars(type(module))


def base_class(module: Any) -> type[nnx.Module]:
    """The class without ECA."""
    return type(module)._eca_base if is_gated(module) else type(module)


def put(module: nnx.Module, layer: ECA) -> None:
    """Gate a module's output, or put a `ReplacingECA` in its place (of the same object, so under all its names)."""
    if isinstance(layer, ReplacingECA):
        _become(module, ReplacingECA, dict(vars(layer)))
        return
    base: Any = type(module)
    module.eca = layer
    become(module, gated_class(base))


def take(module: nnx.Module) -> None:
    """Undo `put` of a gate."""
    become(module, base_class(module))
    del module.eca
    nodes = module._pytree__nodes
    if NAME in nodes:  # what nnx noted of the attribute, which is part of the graph definition
        kept = {key: value for key, value in nodes.items() if key != NAME}
        object.__setattr__(module, "_pytree__nodes", type(nodes)(kept))


def snapshot(module: nnx.Module) -> tuple[type, dict[str, Any]]:
    """What `restore` needs."""
    return type(module), dict(vars(module))


def restore(module: nnx.Module, kept: tuple[type, dict[str, Any]]) -> None:
    _become(module, *kept)


def become(module: nnx.Module, cls: type) -> None:
    """Change the class; nnx's own way of setting attributes would note `__class__` as one of them."""
    object.__setattr__(module, "__class__", cls)


def _become(module: nnx.Module, cls: type, attributes: dict[str, Any]) -> None:
    become(module, cls)
    vars(module).clear()
    vars(module).update(attributes)
