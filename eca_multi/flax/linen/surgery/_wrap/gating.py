"""The gates of a linen network while it runs: an interceptor, and marks on the scopes that tell it what to gate.

A path alone does not tell a site: a network may call `apply` of another module inside, whose paths begin anew. And
`nn.jit` skips every interceptor where it has a trace of an equal module. So the sites stand in the flags of the
network's scopes. Scopes below inherit flags, lifted transforms pass them on, and `nn.jit` takes a trace of equal flags
alone: one with the same gates at the same places.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
from flax import linen as nn
from flax.core import Scope, unfreeze
from flax.traverse_util import flatten_dict

from eca_multi.flax.linen.layers import ECA
from eca_multi.surgery.entry import ECAEntry

NAME = "eca"  # of the ECA's scope in the site's scope
KERNEL = (NAME, "kernel")
MARKS, INSIDE = "eca_multi_marks", "eca_multi_inside"  # flags of a scope


class Running(threading.local):
    """Whether the interceptor runs, in a thread as flax's interceptors do."""

    gates = False


running = Running()
_numbers = itertools.count()


class Unique:
    """A flag that no two traces share: with the flag, `nn.jit` traces at each call."""

    def __hash__(self) -> int:
        return next(_numbers)


@dataclass(frozen=True, repr=False)
class Site:
    """One inserted ECA: the entry of its plan, the plan's gate and init, and the kernel's dtype."""

    entry: ECAEntry
    gate: str
    init: str
    dtype: str

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.entry.path.split("/")) if self.entry.path else ()

    def layer(self, scope: Any) -> ECA:
        return ECA(
            kernel_size=self.entry.kernel_size,
            gate=self.gate,
            kernel_init=self.init,
            channel_axis=self.entry.channel_axis,
            param_dtype=self.dtype,
            parent=scope,
            **self.entry.axes,
        )

    def at(self, keys: Sequence[str]) -> "Site":
        """Return the site below another module, without what makes no difference to a run."""
        entry = self.entry
        bare = ECAEntry("/".join(keys), entry.action, layout=entry.layout, kernel_size=entry.kernel_size, **entry.axes)
        return replace(self, entry=bare)

    def __repr__(self) -> str:
        return f"{self.entry.path} (k={self.entry.kernel_size})"


class Mark:
    """The sites at and below a module: `depth` is the length of the module's path, from which the sites' paths start.

    `nn.jit` asks for the hash to tell traces apart. A block under `nn.jit` has the mark of the module around it: two
    equal blocks share a trace, and with it the gates, if their variables have the same structure. Where those do not
    tell a gated block from another one, a mark is `unique`, with a new hash each time. The scopes of a bound module
    keep their marks after a call, when nothing is gated, so that the hash is another one then.
    This is no dataclass, which flax would take apart instead of asking for its hash.
    """

    __slots__ = ("depth", "sites", "unique")

    def __init__(self, depth: int, sites: tuple[Site, ...], unique: bool) -> None:
        self.depth, self.sites, self.unique = depth, sites, unique

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mark) and (self.depth, self.sites) == (other.depth, other.sites)

    def __hash__(self) -> int:
        return hash((self.depth, self.sites, running.gates, next(_numbers) if self.unique else 0))

    def below(self, path: tuple[str, ...]) -> "Mark":
        rest = path[self.depth :]
        inside = [(site, site.keys[len(rest) :]) for site in self.sites if site.keys[: len(rest)] == rest]
        return Mark(len(path), tuple(site.at(keys) for site, keys in inside), self.unique)


class KernelMissing(Exception):
    """A site is called with variables that lack its kernel."""


@contextmanager
def gating(module: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """Gate the calls of the sites below a bound module, once however often this is entered."""
    scope = getattr(module, "scope", None)
    if scope is None or not sites:
        yield
        return
    mark = Mark(len(scope.path), tuple(site.at(site.keys) for site in sites), _is_ambiguous(scope, sites))
    marks = flag_of(scope, MARKS) or ()
    if mark not in marks:
        flag(module, MARKS, (*marks, mark))
    # The reset is registered first: after an exception in between, all later calls would pass without the gates.
    with ExitStack() as stack:
        if not running.gates:
            stack.callback(setattr, running, "gates", False)
            running.gates = True
            stack.enter_context(nn.intercept_methods(_intercept))
        yield


def _is_ambiguous(scope: Scope, sites: Sequence[Site]) -> bool:
    """Whether the structure of variables does not tell the sites: in `init`, or with the kernel of a removed ECA."""
    params = scope.variables().get("params", {})
    kernels = {keys[: -len(KERNEL)] for keys in flatten_dict(unfreeze(params)) if keys[-2:] == KERNEL}
    return scope.is_mutable_collection("params") or not kernels <= {site.keys for site in sites}


def flag(module: nn.Module, name: str, value: Any) -> None:
    """Set a flag on the scopes of a bound module and of the modules in its fields, which exist before any call."""
    scope = module.scope
    if scope is None:
        return
    scope.flags = scope.flags.copy({name: value})
    values = [getattr(module, f.name, None) for f in fields(module) if f.name != "parent"]
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, nn.Module) and leaf.scope is not None and leaf.scope.parent is scope:
            flag(leaf, name, value)


def flag_of(scope: Scope, name: str) -> Any:
    """Return a flag of a scope, of the nearest scope above where the scope was made before its network was marked."""
    above: Scope | None = scope
    while above is not None:
        if name in above.flags:
            return above.flags[name]
        above = above.parent
    return None


def _intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    scope = context.module.scope
    marks = None if scope is None else flag_of(scope, MARKS)
    if not marks:
        return call(*args, **kwargs)
    marks = tuple(mark.below(scope.path) for mark in marks)
    site = next((site for mark in marks for site in mark.sites if not site.keys), None)
    old = scope.flags
    try:
        scope.flags = old.copy({MARKS: marks})
        if site is None or context.method_name != "__call__" or old.get(INSIDE) == len(scope.path):  # super().__call__
            return call(*args, **kwargs)
        if not scope.is_mutable_collection("params") and not has(scope.variables().get("params", {}), KERNEL):
            raise KernelMissing
        if site.entry.action == "replace":
            x = args[0] if args else next(iter(kwargs.values()))
        else:
            scope.flags = scope.flags.copy({INSIDE: len(scope.path)})
            x = call(*args, **kwargs)
        # In its second call, a shared submodule has its ECA's scope already.
        return site.layer(scope.push(NAME, reuse=True))(x)
    finally:
        scope.flags = old


def has(tree: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if key not in tree:
            return False
        tree = tree[key]
    return True
