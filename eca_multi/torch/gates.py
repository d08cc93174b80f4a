"""Record the gates of a torch network, and find the ECAs that do nothing."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from torch.jit import is_tracing  # type: ignore[attr-defined]  # documented, but not in torch.jit.__all__

from eca_multi._canonical import CANONICAL_NAME
from eca_multi.gates.errors import nested, nothing_recorded, without_values
from eca_multi.gates.layer import LayerGates, options_of
from eca_multi.gates.prune import THRESHOLD, PrunePlan, check_gates, check_threshold, no_inputs, plan_pruning
from eca_multi.gates.record import GateRecord
from eca_multi.surgery.errors import no_eca

from ._private import functorch, in_backward, tree_leaves
from .functional import eca
from .layers import ECA
from .surgery._find.check import check_module
from .surgery._find.observe import arguments
from .surgery._wrap.gate import is_behind
from .surgery._wrap.sites import is_inserted, parent_of
from .weights import to_canonical

RECORDED: WeakSet[nn.Module] = WeakSet()
WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}
REMEDY = "Call the network within the context; a scripted, exported or copied network is another one."


@contextmanager
def record_gates(model: nn.Module, *, raw: int = 0) -> Iterator[GateRecord]:
    """Record the gates of each ECA in a network while the context lasts.

    Hooks read what each ECA is called with, and compute its gate once more: outputs, gradients, random numbers and the
    state of the network stay bit for bit. Functions that torch.compile has compiled run eagerly within the context, and
    their compiled code is used again after it.

    Args:
        model: With ECA layers: inserted ones, those of our networks, and those that its author wrote into it.
        raw: How many rows (samples, or kept positions of samples) of each layer to keep beside the statistics.

    Yields:
        The record, which grows with each call. `with gates.label(y): model(x)` gives the samples of a call classes.

    Raises:
        TypeError: If the model is no module. NoSiteError: If there is no ECA in the network.
        ValueError: If its gates are being recorded already, if no ECA was called, or if labels do not fit a call.

    Example:
        >>> import torch
        >>> from eca_multi.torch import ECA, record_gates
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), ECA(8, gate="2sigmoid", init="identity"))
        >>> with record_gates(model) as gates:
        ...     y = model(torch.ones(2, 3, 5, 5))
        >>> gates["1"].mean
        array([1., 1., 1., 1., 1., 1., 1., 1.])
    """
    layers = _layers(model)
    if any(layer in RECORDED for layer in layers.values()):
        raise nested()
    record = GateRecord("torch", type(_plain(model)).__name__, raw=raw)
    with ExitStack() as stack:
        # Compiled code does not ask again whether a module has hooks.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, layer in layers.items():
            RECORDED.add(layer)
            stack.callback(RECORDED.discard, layer)
            hook = layer.register_forward_hook(partial(_record, record, path), with_kwargs=True)
            stack.callback(hook.remove)
        yield record
        if not record:
            raise nothing_recorded(tuple(layers), REMEDY)
        for path, known in record.items():
            known.kernel = _kernel(layers[path])


def prune_plan(
    model: nn.Module, gates: Mapping[str, LayerGates], *, threshold: float = THRESHOLD, example_inputs: Any = None
) -> PrunePlan:
    """Find the ECAs whose gates stay near one number, and measure how the outputs change without them.

    `remove_eca` takes the gate away: where it was the constant c, x * c becomes x. The plan therefore holds two
    changes of the outputs for each ECA: without it, and with its constant in its place, as if it were folded into the
    layer before. The network runs in evaluation mode and is not changed.

    Args:
        model: The network.
        gates: What `record_gates` gave for it.
        threshold: The largest distance of a gate from the layer's constant.
        example_inputs: What the network is called with: a tensor, a tuple of positional inputs or a dict of keywords.

    Returns:
        The plan; `remove_eca(model, include=plan.paths)` carries it out.

    Raises:
        TypeError, ValueError: If an argument is invalid, or the record is of another network.

    Example:
        >>> import torch
        >>> from eca_multi.torch import insert_eca, prune_plan, record_gates
        >>> model, x = insert_eca(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), "conv"), torch.ones(2, 3, 5, 5)
        >>> with record_gates(model) as gates:
        ...     y = model(x)
        >>> prune_plan(model, gates, example_inputs=x).paths
        ('0',)
    """
    layers = _layers(model)
    check_gates(gates, tuple(layers))
    threshold = check_threshold(threshold)
    if example_inputs is None:
        raise no_inputs()
    inserted = [path for path, layer in layers.items() if _is_removable(layer)]
    return plan_pruning(gates, inserted, threshold, partial(_outputs, model, layers, example_inputs))


def _layers(model: nn.Module) -> dict[str, ECA]:
    """Return the ECAs by path: an inserted one by the path of its site."""
    check_module(model)
    found = {}
    for path, module in _plain(model).named_modules():
        if isinstance(module, ECA):
            found[parent_of(path)[0] if is_behind(module) else path] = module
    if not found:
        raise no_eca(type(model).__name__)
    return found


def _plain(model: nn.Module) -> nn.Module:
    """Return the network inside of wrappers, whose paths the network has without them."""
    while (name := WRAPPERS.get(type(model).__name__, "")) and hasattr(model, name):
        model = getattr(model, name)
    return model


def _is_removable(layer: ECA) -> bool:
    return is_inserted(layer) and layer.inserted != "replace"  # an SE block is gone


def _kernel(layer: ECA) -> np.ndarray:
    return np.asarray(to_canonical(layer)[CANONICAL_NAME], np.float64)


def _record(record: GateRecord, path: str, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
    """The hook: compute the gate of a call, and give it to the record."""
    if in_backward():  # activation checkpointing calls the layer once more, with what it has seen
        return
    x = args[0] if args else kwargs["x"]
    mask = args[1] if len(args) > 1 else kwargs.get("mask")
    if not _has_values(x):
        raise without_values(path, type(x).__name__)
    seeds = torch.get_rng_state() if callable(layer.gate) else None  # a gate of the user's may draw
    with torch.no_grad():
        _, g = eca(x, layer.conv.weight, mask=mask, return_gate=True, **options_of(layer))
    if seeds is not None:
        torch.set_rng_state(seeds)
    facts = LayerGates.of(path, layer, layer.channels, _kernel(layer), _is_removable(layer))
    whole: Any = g
    record.add(facts, (whole.full_tensor() if hasattr(g, "full_tensor") else g).cpu().double().numpy())


def _has_values(x: Any) -> bool:
    """Whether a tensor holds numbers: none has inside of torch.func, torch.export, torch.fx and torch.jit.trace."""
    if not isinstance(x, torch.Tensor) or x.is_meta or is_tracing():  # type: ignore[no-untyped-call]  # torch's own
        return False
    return type(x).__name__ != "FakeTensor" and not functorch.is_functorch_wrapped_tensor(x)


def _outputs(
    model: nn.Module, layers: Mapping[str, ECA], example_inputs: Any, exchanged: Mapping[str, float]
) -> list[np.ndarray]:
    """Return the floating-point outputs with some ECAs exchanged for constants."""
    modes = [(module, module.training) for module in model.modules()]
    args, kwargs = arguments(example_inputs)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, constant in exchanged.items():
            hook = layers[path].register_forward_hook(partial(_exchange, constant), with_kwargs=True)
            stack.callback(hook.remove)
        try:
            y = model.eval()(*args, **kwargs)
        finally:
            for module, mode in modes:
                module.training = mode
    tensors = [leaf for leaf in tree_leaves(y) if isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point]
    return [tensor.cpu().double().numpy() for tensor in tensors]


def _exchange(constant: float, layer: Any, args: Any, kwargs: Any, output: Any) -> Any:
    """The hook that returns x * constant, plus the residual where there is one, instead of the output."""
    x = args[0] if args else kwargs["x"]
    residual = args[2] if len(args) > 2 else kwargs.get("residual")
    y = x if constant == 1.0 else x * constant
    return y if residual is None else y + residual
