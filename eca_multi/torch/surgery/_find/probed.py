"""The probe of a torch network: runs in evaluation mode, with other numbers at some positions of its inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from eca_multi.surgery.causal_probe import Array, Outcome, probe
from eca_multi.surgery.causality import Found
from eca_multi.surgery.entry import ECAEntry
from eca_multi.torch._private import tree_flatten, tree_unflatten
from eca_multi.torch.surgery._wrap.sites import parent_of

from .check import on_meta
from .network import Network
from .observe import observe

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ABOUT_ZERO = 1e-3  # of a parameter that training has yet to move: a layer scale, the last norm of a branch
Values = Mapping[str, torch.Tensor]


def probed(network: Network, entries: Sequence[ECAEntry]) -> Found:
    """Return what runs on changed inputs show of the sites; it never raises.

    A parameter about zero may hide a path (a temporal attention that starts as nothing), as ECA's own start hides a
    leak. So what the runs show must hold with other numbers in the place of these parameters too.
    """
    if network.run is None or on_meta(network.example_inputs):
        return Found()
    try:
        found = _probed(network, entries, {})
        values = _shaken(network.model) if found.evidence else {}
        return _probed(network, entries, values) if values else found
    except Exception as error:  # whatever the network raises on inputs that do not fit each other any more
        cause = error.__cause__ or error
        return Found(failed=f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}")


def _probed(network: Network, entries: Sequence[ECAEntry], values: Values) -> Found:
    model = network.model
    leaves, structure = tree_flatten(network.example_inputs)
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    def outputs(arrays: Sequence[Array]) -> list[Array]:
        given = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            given[i] = torch.from_numpy(np.ascontiguousarray(array)).to(leaves[i].device, leaves[i].dtype)
        result = observe(model, tree_unflatten(given, structure), {}, values=values)
        return [_array(y) for y in result.outputs if _is_array(y)]

    def run(arrays: Sequence[Array], paths: Sequence[str]) -> Outcome:
        sites: dict[str, list[Array]] = {path: [] for path in paths}
        with _hooked(model, {path: partial(_note, calls) for path, calls in sites.items()}):
            return Outcome(outputs(arrays), sites)

    def nudge(path: str, added: Array) -> Sequence[Array]:
        with _hooked(model, {path: partial(_add, torch.from_numpy(added))}):
            return outputs(inputs)

    inputs = [_array(leaves[i]) for i in places]
    seen = network.run.outputs if network.run and not values else None
    before = outputs(inputs) if seen is None else [_array(y) for y in seen if _is_array(y)]
    return probe(run, inputs, before, entries, eps=_eps(model), nudge=nudge)


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Hook each site; of an empty slot, the block that holds it: its output has the same positions."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    handles = []
    try:
        for path, hook in hooks.items():
            site = modules[path if modules.get(path) is not None else parent_of(path)[0]]
            handles.append(site.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(calls: list[Array], module: nn.Module, args: Any, y: Any) -> None:
    if _is_array(y):
        calls.append(_array(y))


def _add(added: torch.Tensor, module: nn.Module, args: Any, y: Any) -> Any:
    fits = isinstance(y, torch.Tensor) and y.shape == added.shape
    return y + added.to(y.device, y.dtype) if fits else y


def _shaken(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return random numbers for each parameter that is about zero and that training may move."""
    random = torch.Generator().manual_seed(0)
    shaken = {}
    for name, p in model.named_parameters():
        if p.requires_grad and p.dtype in FLOATS and p.numel() and float(p.detach().abs().max()) <= ABOUT_ZERO:
            size = prod(p.shape[1:]) ** -0.5 if p.ndim > 1 else 0.3
            shaken[name] = (torch.randn(p.shape, generator=random) * size).to(p.device, p.dtype)
    return shaken


def _eps(model: nn.Module) -> float:
    """Return the distance of neighbours in the coarsest type of the parameters."""
    return max((torch.finfo(p.dtype).eps for p in model.parameters() if p.dtype in FLOATS), default=0.0)


def _is_array(value: Any) -> bool:
    """Whether a value is a dense tensor that NumPy has a type for, or bfloat16."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_nested or value.is_quantized:
        return False
    return value.dtype in FLOATS or not (value.is_floating_point() or value.is_complex())


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()
    return array
