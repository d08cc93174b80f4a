"""What stands in a network with ECA: a module with ECA behind it, or an ECA in a module's place.

The class of a gated module becomes a subclass that passes the output through the child `eca`. The module stays the same
object under the same names, so that its variables keep their paths: `nnx.state` of the network only gains the kernels.
A wrapper module would rename the variables, and Python refuses a change to a class with a mixin, whose instances have
another layout.
"""

import contextlib
import copyreg
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi.flax._initializers import kernel_of
from eca_multi.flax._private import forget_attribute, is_pytree
from eca_multi.flax.nnx.layers import ECA, ECAParam
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.plan import ECAPlan

NAME = "eca"


class ReplacingECA(ECA):
    """ECA in the place of a module of the class named `replaced`; ECA ignores further arguments of the call."""

    replaced: str = ""

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        return super().__call__(x)


@functools.cache
def gated_class(base: Any) -> type[nnx.Module]:
    """Return the subclass whose output is gated; one subclass for each base, so that graph definitions stay equal."""

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not issubclass(base, nnx.bridge.ToNNX):
            return self.eca(base.__call__(self, *args, **kwargs))
        with hidden(self, NAME) as layer:
            y = base.__call__(self, *args, **kwargs)
        return layer(y)

    meta: Any = type(base)
    return subclass(base, "WithECA", _gated_meta(meta), {"__call__": __call__, "eca_base": base})


def subclass(base: type[nnx.Module], suffix: str, meta: type, members: dict[str, Any]) -> type[nnx.Module]:
    """Return a subclass of one class, registered with JAX if and only if the base is."""
    members = {
        "__module__": base.__module__,
        "__qualname__": f"{base.__qualname__}{suffix}",
        "__doc__": base.__doc__,
        **members,
    }
    keywords = {"metaclass": meta, "pytree": is_pytree(base)}
    return types.new_class(f"{base.__name__}{suffix}", (base,), keywords, lambda space: space.update(members))


@functools.cache
def _gated_meta(meta: Any) -> type:
    """Return the metaclass by which pickle makes a gated class again, which has no importable name."""
    gated: Any = type("GatedMeta", (meta,), {})
    copyreg.pickle(gated, lambda cls: (gated_class, (cls.eca_base,)))
    return gated


def is_gated(module: Any) -> bool:
    return "eca_base" in vars(type(module))


def base_class(module: Any) -> type[nnx.Module]:
    return type(module).eca_base if is_gated(module) else type(module)


def wrap(module: nnx.Module, layer: ECA) -> None:
    """Gate a module's output, or turn the module into a `ReplacingECA`; the object stays, under all its names."""
    if isinstance(layer, ReplacingECA):
        _replace(module, ReplacingECA, dict(vars(layer)))
        return
    base: Any = type(module)
    module.eca = layer
    become(module, gated_class(base))


@contextlib.contextmanager
def hidden(module: nnx.Module, name: str) -> Iterator[Any]:
    """Take an attribute of ours out of a module during the module's own call, which may look at all attributes.

    `nnx.bridge.ToNNX` passes each of its attributes to the linen module inside.
    """
    attributes = vars(module)
    value = attributes.pop(name)
    try:
        yield value
    finally:
        attributes[name] = value


def unwrap(module: nnx.Module) -> None:
    """Undo `wrap` for a gated module."""
    become(module, base_class(module))
    del module.eca
    forget_attribute(module, NAME)


def undo_for(module: nnx.Module) -> Callable[[], None]:
    """Return a function that puts the module's present class and attributes back."""
    return functools.partial(_replace, module, type(module), dict(vars(module)))


def become(module: nnx.Module, cls: type) -> None:
    """Change a module's class; nnx's own `__setattr__` would note `__class__` as an attribute of the module."""
    object.__setattr__(module, "__class__", cls)


def _replace(module: nnx.Module, cls: type, attributes: dict[str, Any]) -> None:
    become(module, cls)
    vars(module).clear()
    vars(module).update(attributes)


def layer_for(module: nnx.Module, entry: ECAEntry, plan: ECAPlan, stack: tuple[int, ...]) -> ECA:
    """Return the ECA for a site, in the dtype and on the devices of the site's own parameters.

    The path alone decides a uniform kernel: no random stream of the model is used. `stack` holds the leading axes of
    the site's variables.
    """
    like = next((v for v in variables(module).values() if isinstance(v, nnx.Param)), None)
    floating = like is not None and jnp.issubdtype(like.dtype, jnp.floating)
    options: dict[str, Any] = {
        "gate": plan.gate,
        "init": plan.init,
        "channel_axis": entry.channel_axis,
        "param_dtype": like.dtype if like is not None and floating else jnp.float32,
        "rngs": nnx.Rngs(0),
        **entry.axes,
    }
    cls = ReplacingECA if entry.action == "replace" else ECA
    layer = cls(entry.channels, entry.kernel_size, **options)
    if isinstance(layer, ReplacingECA):
        layer.replaced = base_class(module).__name__
    layer.kernel = ECAParam(_kernel(entry, plan.init, (*stack, entry.kernel_size, 1, 1), layer.kernel.dtype, like))
    return layer


def _kernel(entry: ECAEntry, init: str, shape: tuple[int, ...], dtype: Any, like: nnx.Variable | None) -> Any:
    value = like.get_value() if like is not None else None
    if isinstance(value, jax.ShapeDtypeStruct):  # the site of an abstract model (nnx.eval_shape)
        return jax.ShapeDtypeStruct(shape, dtype)
    kernel = kernel_of(entry, init, shape, dtype)
    return kernel if value is None else _beside(kernel, value)


def _beside(kernel: jax.Array, value: Any) -> jax.Array:
    """Put the kernel where the site's parameter is: on the same device, or on all devices of the mesh."""
    sharding = getattr(value, "sharding", None)
    if not getattr(value, "committed", False) or sharding is None:
        return kernel
    if isinstance(sharding, jax.sharding.NamedSharding):
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.device_put(kernel, sharding)


def variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Return a module's own variables by name; without any, the first variable below by its dotted path."""
    own = {name: value for name, value in vars(module).items() if isinstance(value, nnx.Variable)}
    if own:
        return own
    below = ((dotted(path), value) for path, value in nnx.iter_graph(module) if isinstance(value, nnx.Variable))
    return dict([first] if (first := next(below, None)) else [])


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
