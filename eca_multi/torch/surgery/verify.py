"""Prove an insertion in a torch network by one run before and one after."""

from typing import Any

import torch
from torch import nn

from eca_multi.surgery.errors import UnsupportedModelError, VerifyError
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.verify import check_verified

from ._find.observe import observe
from ._wrap import Gated


def verify(model: nn.Module, plan: ECAPlan, example_inputs: Any, before: list[torch.Tensor]) -> None:
    """Compare a network with ECA with the network before.

    Args:
        model: With ECA.
        plan: What was inserted.
        example_inputs: To run on.
        before: The outputs before.

    Raises:
        VerifyError: If the network does not run, if outputs were promised equal and are not, or if an ECA was not
            called as often as its base.
    """
    sites = {entry.path: model.get_submodule(entry.path) for entry in plan.entries}
    bases = {path: site.base if isinstance(site, Gated) else site for path, site in sites.items()}
    layers = {path: site.eca if isinstance(site, Gated) else site for path, site in sites.items()}
    try:
        base_run = observe(model, example_inputs, bases)
        eca_run = observe(model, example_inputs, layers)
    except UnsupportedModelError as error:
        raise VerifyError(f"The network with ECA must run. Received: {error} The model was put back.") from error
    same = len(base_run.outputs) == len(before) and all(map(torch.equal, base_run.outputs, before))
    check_verified(plan, same, {path: (base_run.calls[path], eca_run.calls[path]) for path in sites})
