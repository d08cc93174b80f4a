"""What stands in a linen network with ECA: the module becomes an instance of a subclass of its class with the sites.

A linen module is a recipe without weights, and its submodules exist during a call alone: no layer can be put into it.
The subclass therefore intercepts the calls of the sites (`gating`) and gates what they return, with an ECA whose scope
is a child of the site's scope. All paths of parameters stay, in `init` too, and lifted transforms (remat, scan, vmap)
treat the kernel as one of the site's parameters.

A module around the user's would change the fields, the other public methods (`apply(method="features")` and
`apply(method=Net.features)`), `isinstance` and the automatic name inside a larger network. A subclass keeps them.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial, wraps
from inspect import getattr_static, isfunction, ismethod
from typing import Any

from flax import linen as nn

from eca_multi.flax.linen.layers import ECA

from .gating import KERNEL, KernelMissing, Site, gating, has


def with_sites(module: nn.Module, sites: Sequence[Site]) -> nn.Module:
    """Return the module with these ECAs and no others."""
    base = base_class(module)
    values = {f.name: getattr(module, f.name) for f in fields(base) if f.init and f.name != "parent"}
    cls = _gated_class(base, tuple(sites)) if sites else base
    return cls(**values, parent=None)


def sites_of(module: nn.Module) -> tuple[Site, ...]:
    return getattr(type(module), "eca_sites", ())


def base_class(module: nn.Module) -> Any:
    """Return the user's class of a module."""
    return getattr(type(module), "eca_base", type(module))


@cache  # one class for the same sites: two modules with the same fields are equal
def _gated_class(base: Any, sites: tuple[Site, ...]) -> Any:
    class Gated(base):
        # Not the one that flax makes of the fields: a class may have its own, or a decorator's.
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            base.__init__(self, *args, **kwargs)

        # Functions that are no methods of the class, and submodules by name.
        @nn.nowrap
        def apply(self, variables: Any, *args: Any, method: Any = None, **options: Any) -> Any:
            return super().apply(variables, *args, method=_within(self, method), **options)

        @nn.nowrap
        def init_with_output(self, rngs: Any, *args: Any, method: Any = None, **options: Any) -> Any:
            return super().init_with_output(rngs, *args, method=_within(self, method), **options)

        @nn.nowrap
        def __reduce__(self) -> Any:
            return _empty, (base, sites), self.__dict__

    for name in dir(base):
        method = getattr_static(base, name)
        if isfunction(method) and (name in ("__call__", "setup") or not hasattr(nn.Module, name)):
            setattr(Gated, name, _gated_method(method))
    # On the class, and not in a field: copies and transformed classes are made from the base's fields alone.
    Gated.eca_base, Gated.eca_sites = base, sites
    Gated.__name__, Gated.__qualname__ = base.__name__, base.__qualname__
    Gated.__module__, Gated.__doc__ = base.__module__, base.__doc__
    return Gated


def _gated_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method, updated=())  # flax keeps marks in a function's __dict__, which hold for the base's method
    def gated(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _gated_call(self, method, args, kwargs)

    return gated


def _gated_call(bound: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with gating(bound, sites_of(bound)):
        try:
            return call(bound, *args, **kwargs)
        except KernelMissing:
            missing = _missing(bound)
            if missing:
                raise no_kernels(missing) from None
            raise  # the network around this one lacks the kernel


def _within(module: nn.Module, method: Any) -> Any:
    """Return the `method` of `apply`, with the sites gated where the class does not define the method."""
    if isinstance(method, str) and isinstance(getattr(module, method, None), nn.Module):
        call = partial(_call_child, method)
    elif callable(method) and not ismethod(method):
        call = method
    else:
        return method

    def within(bound: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _gated_call(bound, call, args, kwargs)

    return within


def _call_child(name: str, bound: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return getattr(bound, name)(*args, **kwargs)


def _empty(base: Any, sites: tuple[Site, ...]) -> nn.Module:
    """Return the instance that pickle and copy fill; the class is made anew from the user's class."""
    return object.__new__(_gated_class(base, sites))


def _missing(root: nn.Module) -> list[str]:
    """Return the paths at which the variables lack a kernel."""
    params = root.variables.get("params", {})
    return ["/".join((*site.keys, *KERNEL)) for site in sites_of(root) if not has(params, (*site.keys, *KERNEL))]


def no_kernels(missing: Sequence[str]) -> ValueError:
    """Return the error for variables without kernels at these paths."""
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return ValueError(
        f"variables must hold a kernel for each ECA of the module. Received: none at {', '.join(missing[:3])}{more}. "
        "Pass those that insert_eca or module.init returned; load_base_state(module, variables, state) takes those of "
        "the network without ECA as its state."
    )


def is_eca(module: Any) -> bool:
    return isinstance(module, ECA)
