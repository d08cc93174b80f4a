"""Prove an insertion in a torch network by one run before and two after: with its kernels, and with others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_numbers, check_verified, did_not_run, differences, probe
from eca_multi.torch.layers import ECA

from ._find.observe import observe
from ._wrap.gate import gate_first, gate_of


def verify(model: nn.Module, plan: ECAPlan, example_inputs: Any, before: list[torch.Tensor]) -> None:
    """Raise VerifyError unless the network with ECA runs and, against the outputs before, does what the plan says.

    Equal outputs do not show over which axis an ECA of the identity averages. So one more run has other kernels, and
    compares each site with the oracle; the kernels are put back.
    """
    sites = {entry.path: model.get_submodule(entry.path) for entry in plan.entries}
    layers = {path: gate_of(site) or site for path, site in sites.items()}
    kernels: dict[str, np.ndarray[Any, Any]] = {}
    wrong: dict[str, list[str]] = {}
    try:
        with _watched(plan, sites, layers, partial(_choose, kernels)):
            base_run = observe(model, example_inputs, sites)
        eca_run = observe(model, example_inputs, layers)
        with _other_kernels(layers, kernels), _watched(plan, sites, layers, partial(_compare, plan, kernels, wrong)):
            observe(model, example_inputs, {})
    except UnsupportedModelError as error:
        raise did_not_run(error.__cause__ or error) from error
    check_numbers(any(bool(tensor.isnan().any()) for tensor in before))
    same = len(base_run.outputs) == len(before) and all(map(torch.equal, base_run.outputs, before))
    calls = {path: (base_run.calls[path], eca_run.calls[path]) for path in sites}
    check_verified(plan, same, calls, [text for texts in wrong.values() for text in texts])


@contextmanager
def _watched(
    plan: ECAPlan, sites: Mapping[str, nn.Module], layers: Mapping[str, nn.Module], note: Any
) -> Iterator[None]:
    """Call `note` with each entry, what its ECA receives, and what goes on from its site."""
    received: dict[str, torch.Tensor] = {}
    hooks: list[Any] = []
    try:
        for entry in plan.entries:
            hooks.append(layers[entry.path].register_forward_pre_hook(partial(_receive, received, entry.path)))
            hooks.append(sites[entry.path].register_forward_hook(partial(_send, received, entry, note), prepend=True))
            gate_first(sites[entry.path])  # and behind `_send` hooks of the user's, which may change what goes on
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _receive(received: dict[str, torch.Tensor], path: str, module: nn.Module, args: Any) -> None:
    received[path] = args[0]


def _send(received: dict[str, torch.Tensor], entry: ECAEntry, note: Any, module: nn.Module, args: Any, y: Any) -> None:
    if entry.path in received:  # else the ECA was not called, which the number of calls tells
        note(entry, *(tensor[:1].detach().double().cpu().numpy() for tensor in (received.pop(entry.path), y)))


def _choose(kernels: dict[str, Any], entry: ECAEntry, x: Any, y: Any) -> None:
    kernels.setdefault(entry.path, probe(entry, x))


def _compare(plan: ECAPlan, kernels: Any, wrong: dict[str, list[str]], entry: ECAEntry, x: Any, y: Any) -> None:
    if entry.path in kernels:
        texts = differences(entry, plan.gate, kernels[entry.path], x, y)
        wrong.setdefault(entry.path, texts)
        wrong[entry.path] = wrong[entry.path] or texts


@contextmanager
def _other_kernels(layers: Mapping[str, nn.Module], kernels: dict[str, Any]) -> Iterator[None]:
    """Put other kernels in; afterwards the old ones are back, bit for bit. `kernels` becomes what the ECAs hold."""
    weights = {path: _weight(layers[path]) for path in kernels}
    old = {path: weight.detach().clone() for path, weight in weights.items()}
    with torch.no_grad():
        try:
            for path, weight in weights.items():
                weight.copy_(torch.from_numpy(kernels[path]).reshape(weight.shape))
                kernels[path] = weight.detach().double().cpu().numpy().reshape(-1)
            yield
        finally:
            for path, weight in weights.items():
                weight.copy_(old[path])


def _weight(layer: nn.Module) -> torch.Tensor:
    if not isinstance(layer, ECA):
        raise TypeError(f"A site of a plan must have an ECA. Received: a {type(layer).__name__}. Insert ECA there.")
    return layer.conv.weight
