"""Record the gates of an nnx network, and find the ECAs that do nothing."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from flax import nnx

from eca_multi.flax._gates import canonical, exchanged, floating, gate_of
from eca_multi.flax._method import check_method
from eca_multi.flax._private import forget_attribute
from eca_multi.flax._run import split_inputs
from eca_multi.gates.errors import nested, nothing_recorded
from eca_multi.gates.layer import LayerGates
from eca_multi.gates.prune import THRESHOLD, PrunePlan, check_gates, check_threshold, no_inputs, plan_pruning
from eca_multi.gates.record import GateRecord
from eca_multi.surgery.errors import no_eca

from .layers import ECA
from .surgery._find.check import check_model
from .surgery._wrap import NAME, ReplacingECA, base_class, become, dotted, is_gated, subclass

REMEDY = "Call the network within the context; what nnx.split or jax.jit took from it before is another one."
KEY = "eca_multi_recorded"
RECEIVERS: dict[str, Any] = {}  # by the key of a layer, which a compiled function keeps


@contextmanager
def record_gates(model: nnx.Module, *, raw: int = 0) -> Iterator[GateRecord]:
    """Record the gates of each ECA in a network while the context lasts.

    Within the context each ECA is of a subclass, which computes the gate once more and passes it to the host by
    `jax.debug.callback`. Outputs, gradients and variables stay as they are. `nnx.jit` sees another graph definition and
    compiles another function; after the context it finds the compiled one of before. The backward pass of `nnx.remat`
    calls its layers once more, and their gates then count twice.

    Args:
        model: With ECA layers: inserted ones, those of our networks, and those that its author wrote into it.
        raw: How many rows (samples, or kept positions of samples) of each layer to keep beside the statistics.

    Yields:
        The record, which grows with each call. `with gates.label(y): model(x)` gives the samples of a call classes.

    Raises:
        TypeError: If the model is no module. NoSiteError: If there is no ECA in the network.
        ValueError: If its gates are being recorded already, if no ECA was called, or if labels do not fit a call.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import ECA, record_gates
        >>> model = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), ECA(8, rngs=nnx.Rngs(0)))
        >>> with record_gates(model) as gates:
        ...     y = nnx.jit(lambda model, x: model(x))(model, jnp.zeros((2, 5, 5, 3)))
        >>> gates["layers.1"].mean
        array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    layers = _layers(model)
    if any(KEY in vars(layer) for layer in layers.values()):
        raise nested()
    record = GateRecord("nnx", base_class(model).__name__, raw=raw)
    record.wait = jax.effects_barrier
    # The same keys for the next recording, which then finds the compiled function of this one.
    slot = next(slot for slot in itertools.count() if not any(key.startswith(f"{slot}:") for key in RECEIVERS))
    with ExitStack() as stack:
        for path, layer in layers.items():
            key = f"{slot}:{path}"
            facts = LayerGates.of(path, layer, layer.channels, canonical(layer.kernel[...]), _is_removable(model, path))
            RECEIVERS[key] = functools.partial(record.receive, facts)
            stack.callback(RECEIVERS.pop, key)
            stack.enter_context(_changed(layer, _recording, key))
        yield record
        record.settle()
        if not record:
            raise nothing_recorded(tuple(layers), REMEDY)
        for path, known in record.items():
            known.kernel = canonical(layers[path].kernel[...])


def prune_plan(
    model: nnx.Module,
    gates: Mapping[str, LayerGates],
    *,
    threshold: float = THRESHOLD,
    example_inputs: Any = None,
    method: str = "__call__",
) -> PrunePlan:
    """Find the ECAs whose gates stay near one number, and measure how the outputs change without them.

    `remove_eca` takes the gate away: where it was the constant c, x * c becomes x. The plan therefore holds two
    changes of the outputs for each ECA: without it, and with its constant in its place, as if it were folded into the
    layer before. A copy of the network runs in evaluation mode; the network is not changed.

    Args:
        model: The network.
        gates: What `record_gates` gave for it.
        threshold: The largest distance of a gate from the layer's constant.
        example_inputs: What the network is called with: an array, a tuple of positional inputs or a dict of keywords.
        method: The name of the method that is called.

    Returns:
        The plan; `remove_eca(model, include=plan.paths)` carries it out.

    Raises:
        TypeError, ValueError: If an argument is invalid, or the record is of another network.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, prune_plan, record_gates
        >>> model = insert_eca(nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> x = jnp.ones((2, 5, 5, 3))
        >>> with record_gates(model) as gates:
        ...     y = model(x)
        >>> prune_plan(model, gates, example_inputs=x).paths
        ('layers.0',)
    """
    layers = _layers(model)
    check_method(model, method)
    check_gates(gates, tuple(layers))
    threshold = check_threshold(threshold)
    if example_inputs is None:
        raise no_inputs()
    inserted = [path for path in layers if _is_removable(model, path)]
    return plan_pruning(gates, inserted, threshold, functools.partial(_outputs, model, example_inputs, method))


def _layers(model: nnx.Module) -> dict[str, ECA]:
    """Return the ECAs by path: an inserted one by the path of its site."""
    check_model(model)
    found: dict[str, ECA] = {}
    seen: set[int] = set()
    modules = {path: module for path, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)}
    for path, module in modules.items():
        if isinstance(module, ECA) and id(module) not in seen:
            seen.add(id(module))
            found[dotted(path[:-1] if _is_behind(modules, path) else path)] = module
    if not found:
        raise no_eca(base_class(model).__name__)
    return found


def _is_behind(modules: Mapping[tuple[Any, ...], Any], path: tuple[Any, ...]) -> bool:
    return path[-1:] == (NAME,) and is_gated(modules.get(path[:-1]))


def _is_removable(model: nnx.Module, path: str) -> bool:
    """Whether surgery put an ECA at a path and can take it out; of a replaced SE block nothing is left."""
    return any(dotted(place) == path and is_gated(module) for place, module in nnx.iter_graph(model))


@contextmanager
def _changed(layer: ECA, made: Any, note: Any) -> Iterator[None]:
    """Make a layer one of a subclass with a note for its call, and undo it."""
    base: Any = type(layer)
    become(layer, made(base))
    setattr(layer, KEY, note)
    try:
        yield
    finally:
        delattr(layer, KEY)
        forget_attribute(layer, KEY)
        become(layer, base)


@functools.cache
def _recording(base: Any) -> type[nnx.Module]:
    """Return the subclass that passes its gates on; one for each base, so that graph definitions stay equal."""

    @functools.wraps(base.__call__)
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        y = base.__call__(self, x, *args, **kwargs)
        ignores = issubclass(base, ReplacingECA)
        mask = None if ignores else args[0] if args else kwargs.get("mask")
        g = gate_of(self, self.kernel[...], x, mask)
        receive = functools.partial(_receive, getattr(self, KEY))
        if isinstance(g, jax.core.Tracer):
            jax.debug.callback(receive, g)
        else:
            receive(g)
        return y

    return subclass(base, "Recorded", type(base), {"__call__": __call__})


def _receive(key: str, gate: Any) -> None:
    if key in RECEIVERS:
        RECEIVERS[key](np.asarray(gate, np.float64))


@functools.cache
def _exchanged(base: Any) -> type[nnx.Module]:
    @functools.wraps(base.__call__)
    def __call__(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        residual = args[1] if len(args) > 1 else kwargs.get("residual")
        return exchanged(getattr(self, KEY), x, residual)

    return subclass(base, "Exchanged", type(base), {"__call__": __call__})


def _outputs(model: nnx.Module, example_inputs: Any, method: str, constants: Mapping[str, float]) -> list[np.ndarray]:
    """Return the floating-point outputs of a copy with some ECAs exchanged for constants."""
    copied = nnx.clone(model)
    copied.eval()
    args, kwargs = split_inputs(example_inputs)
    layers = _layers(copied)
    with ExitStack() as stack:
        for path, constant in constants.items():
            stack.enter_context(_changed(layers[path], _exchanged, constant))
        return floating(getattr(copied, method)(*args, **kwargs))
