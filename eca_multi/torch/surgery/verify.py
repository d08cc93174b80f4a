"""Prove an insertion in a torch network by one run before and one after."""

from typing import Any

import torch
from torch import nn

from eca_multi.surgery.errors import UnsupportedModelError, VerifyError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.observe import observe
from ._wrap.gate import gate_of


def verify(model: nn.Module, plan: ECAPlan, example_inputs: Any, before: list[torch.Tensor]) -> None:
    """Raise VerifyError unless the network with ECA runs and, against the outputs before, does what the plan says."""
    sites = {entry.path: model.get_submodule(entry.path) for entry in plan.entries}
    layers = {path: gate_of(site) or site for path, site in sites.items()}
    try:
        base_run = observe(model, example_inputs, sites)
        eca_run = observe(model, example_inputs, layers)
    except UnsupportedModelError as error:
        raise VerifyError(f"The network with ECA must run. Received: {error} The model was put back.") from error
    same = len(base_run.outputs) == len(before) and all(map(torch.equal, base_run.outputs, before))
    check_verified(plan, same, {path: (base_run.calls[path], eca_run.calls[path]) for path in sites})
