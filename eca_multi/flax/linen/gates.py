"""Record the gates of a linen network, and find the ECAs that do nothing."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import struct
from flax.core import DenyList, meta

from eca_multi.flax._gates import canonical, exchanged, floating, gate_of
from eca_multi.flax._method import check_method
from eca_multi.flax._run import split_inputs
from eca_multi.gates.errors import nested, no_such_layer, not_passed_on
from eca_multi.gates.layer import LayerGates, name_of
from eca_multi.gates.prune import THRESHOLD, PrunePlan, check_gates, check_threshold, no_inputs, plan_pruning
from eca_multi.gates.record import GateRecord
from eca_multi.surgery.errors import no_eca

from .surgery._find.check import check_module
from .surgery._wrap import NAME, base_class, is_eca, sites_of
from .surgery._wrap.gating import flag, flag_of, has

COLLECTION = "eca_gates"  # of the variables in which gates leave nn.scan, nn.remat, nn.vmap and nn.jit
REMEDY = f"Let the lifted transform pass {COLLECTION!r} on, as in nn.scan(..., variable_axes={{{COLLECTION!r}: 0}})."
Facts = tuple[str, int, str, str, tuple[int, ...] | None, int | None, bool]


@struct.dataclass
class Gates(Mapping[str, tuple[jax.Array, ...]]):
    """The gates of one call by the paths of the ECAs, a tuple with one gate (N, C, *kept) for each call of the layer.

    JAX takes it as a tree of arrays, so that a compiled function can return it.

    Example: See `record_gates`.
    """

    arrays: dict[str, tuple[jax.Array, ...]]
    kernels: dict[str, jax.Array]
    facts: tuple[Facts, ...] = struct.field(pytree_node=False)
    network: str = struct.field(pytree_node=False, default="")

    def __getitem__(self, path: str) -> tuple[jax.Array, ...]:
        if path not in self.arrays:
            raise no_such_layer(path, tuple(self.arrays))
        return self.arrays[path]

    def __iter__(self) -> Iterator[str]:
        return iter(fact[0] for fact in self.facts)

    def __len__(self) -> int:
        return len(self.facts)

    def into(self, record: GateRecord | None = None) -> GateRecord:
        """Add the gates to a record, or to a new one, and return it; `with record.label(y):` gives them classes."""
        if record is None:
            record = GateRecord("linen", self.network)
        for fact in self.facts:
            kernel = self.kernels[fact[0]]
            path, channels, gate, padding, pool_axes, causal_axis, inserted = fact
            facts = LayerGates(path, channels, canonical(kernel), gate, padding, pool_axes, causal_axis, inserted)
            for array in self.arrays[path]:
                stacked = np.asarray(array, np.float64)
                for one in stacked.reshape(-1, *stacked.shape[kernel.ndim - 3 :]) if kernel.ndim > 3 else [stacked]:
                    record.add(facts, one)
            record[path].kernel = facts.kernel
        return record


def record_gates(module: nn.Module) -> Callable[..., tuple[Any, Gates]]:
    """Return a function that runs a network as `module.apply` does, and returns its outputs and its gates.

    An interceptor computes the gate of each ECA once more, and puts it into a collection of variables of its own, so
    that the gates leave lifted transforms too; outputs, gradients and variables stay as they are. The function can be
    compiled by `jax.jit`.

    Args:
        module: With ECA layers: inserted ones, those of our networks, and those that its author wrote into it.

    Returns:
        apply(variables, *args, rngs=None, method=None, mutable=False, **kwargs) -> (outputs, gates), with the outputs
        of `module.apply` for these arguments. `gates[path]` are arrays; `gates.into(record)` adds them to the running
        statistics of a `GateRecord`, from which there are a file and pictures.

    Raises:
        TypeError: If the module is none. UnsupportedModelError: If it is bound. The function raises NoSiteError if the
        network calls no ECA, and ValueError inside of itself, or if a lifted transform keeps the gates.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import ECA, record_gates
        >>> from eca_multi.gates import GateRecord
        >>> net, x = nn.Sequential([nn.Conv(8, (3, 3)), ECA()]), jnp.zeros((2, 5, 5, 3))
        >>> variables = net.init(jax.random.key(0), x)
        >>> outputs, gates = jax.jit(record_gates(net))(variables, x)
        >>> gates["layers_1"][0].shape
        (2, 8)
        >>> record = GateRecord("linen", raw=1)
        >>> with record.label([0, 1]):
        ...     record = gates.into(record)
        >>> record["layers_1"].mean
        array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    check_module(module)
    return functools.partial(_apply, module)


def prune_plan(
    module: nn.Module,
    variables: Mapping[str, Any],
    gates: Mapping[str, LayerGates],
    *,
    threshold: float = THRESHOLD,
    example_inputs: Any = None,
    method: str = "__call__",
) -> PrunePlan:
    """Find the ECAs whose gates stay near one number, and measure how the outputs change without them.

    `remove_eca` takes the gate away: where it was the constant c, x * c becomes x. The plan therefore holds two
    changes of the outputs for each ECA: without it, and with its constant in its place, as if it were folded into the
    layer before. The network is called as it is: give a train flag in `example_inputs`.

    Args:
        module, variables: The network.
        gates: A record of it, as `gates.into()` gives.
        threshold: The largest distance of a gate from the layer's constant.
        example_inputs: What the network is called with: an array, a tuple of positional inputs or a dict of keywords.
        method: The name of the method that is called.

    Returns:
        The plan; `remove_eca(module, variables, include=plan.paths)` carries it out.

    Raises:
        TypeError, ValueError: If an argument is invalid, or the record is of another network.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from eca_multi.flax.linen import insert_eca, prune_plan, record_gates
        >>> net, x = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu]), jnp.ones((2, 5, 5, 3))
        >>> net, variables = insert_eca(net, net.init(jax.random.key(0), x), "conv", example_inputs=x)
        >>> _, gates = record_gates(net)(variables, x)
        >>> prune_plan(net, variables, gates.into(), example_inputs=x).paths
        ('layers_0',)
    """
    check_module(module)
    check_method(module, method)
    threshold = check_threshold(threshold)
    if example_inputs is None:
        raise no_inputs()
    args, kwargs = split_inputs(example_inputs)
    _, now = _apply(module, variables, *args, method=method, **kwargs)
    check_gates(gates, tuple(now))
    inserted = [fact[0] for fact in now.facts if fact[-1]]
    run = functools.partial(_outputs, module, variables, args, kwargs, method)
    return plan_pruning(gates, inserted, threshold, run)


def _apply(
    module: nn.Module, variables: Any, *args: Any, method: Any = None, mutable: Any = False, **kwargs: Any
) -> tuple[Any, Gates]:
    facts: dict[str, Facts] = {}

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if layer.scope is not None and layer.scope.parent is None and flag_of(layer.scope, COLLECTION) is None:
            flag(layer, COLLECTION, True)  # so that nn.jit takes no trace without gates
        y = call(*args, **kwargs)
        if not is_eca(layer) or context.method_name != "__call__" or layer.is_initializing():
            return y
        x = args[0] if args else kwargs["x"]
        mask = args[1] if len(args) > 1 else kwargs.get("mask")
        g = gate_of(layer, meta.unbox(layer.get_variable("params", "kernel")), x, mask)
        place = "/".join(layer.path)
        path, inserted = _site(sites, layer.path)
        axes = (layer.pool_axes, layer.causal_axis)
        facts[place] = (path, int(g.shape[1]), name_of(layer.gate), layer.padding, *axes, inserted)
        if layer.scope.is_mutable_collection(COLLECTION):
            before = layer.scope.get_variable(COLLECTION, "gate", ())
            layer.scope.put_variable(COLLECTION, "gate", (*before, g))
        return y

    sites = sites_of(module)
    if COLLECTION in variables:
        raise nested()
    with nn.intercept_methods(record):
        y, updated = module.apply(variables, *args, method=method, mutable=_with_gates(mutable), **kwargs)
    if not facts:
        raise no_eca(base_class(module).__name__)
    found = {place: _at(updated.get(COLLECTION, {}), (*place.split("/"), "gate")) for place in facts}
    kernels = {place: _at(variables.get("params", {}), (*place.split("/"), "kernel")) for place in facts}
    hidden = [facts[place][0] for place in facts if found[place] is None or kernels[place] is None]
    if hidden:
        raise not_passed_on(hidden, REMEDY)
    gates = Gates(  # type: ignore[call-arg]  # mypy does not know struct.dataclass on a Mapping
        {facts[place][0]: tuple(found[place]) for place in facts},
        {facts[place][0]: meta.unbox(kernels[place]) for place in facts},
        tuple(facts.values()),
        base_class(module).__name__,
    )
    rest = {name: value for name, value in updated.items() if name != COLLECTION}
    return (y if mutable is False else (y, rest)), gates


def _with_gates(mutable: Any) -> Any:
    """Return what is mutable in a call: what the caller says, and the gates."""
    if isinstance(mutable, bool | DenyList):
        return mutable or [COLLECTION]
    return [COLLECTION, *([mutable] if isinstance(mutable, str) else mutable)]


def _site(sites: Sequence[Any], path: tuple[str, ...]) -> tuple[str, bool]:
    """Return the path of an ECA, of an inserted one that of its site; and whether it can be taken out."""
    for site in sites:
        if path == (*site.keys, NAME):
            return site.entry.path, site.entry.action != "replace"
    return "/".join(path), False


def _at(tree: Any, keys: Sequence[str]) -> Any:
    if not has(tree, keys):
        return None
    return functools.reduce(lambda below, key: below[key], keys, tree)


def _outputs(
    module: nn.Module, variables: Any, args: Any, kwargs: Any, method: str, constants: Mapping[str, float]
) -> list[np.ndarray]:
    """Return the floating-point outputs with some ECAs exchanged for constants."""
    sites = sites_of(module)

    def exchange(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if is_eca(layer) and context.method_name == "__call__" and (path := _site(sites, layer.path)[0]) in constants:
            x = args[0] if args else kwargs["x"]
            residual = args[2] if len(args) > 2 else kwargs.get("residual")
            return exchanged(constants[path], x, residual)
        if layer.scope is not None and layer.scope.parent is None:
            flag(layer, COLLECTION, tuple(constants.items()))  # so that nn.jit traces anew
        return call(*args, **kwargs)

    with nn.intercept_methods(exchange):
        return floating(module.apply(variables, *args, method=method, **kwargs))
