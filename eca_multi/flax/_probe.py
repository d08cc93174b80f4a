"""The probe of linen and nnx: the shared one, where a run can tell and nothing is proved."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eca_multi.flax._jaxpr.flow import Flow
from eca_multi.flax._jaxpr.proof import shared_axes
from eca_multi.surgery.causal_probe import Run, probe
from eca_multi.surgery.causality import Evidence
from eca_multi.surgery.entry import ECAEntry


def probed(run: Run, arrays: Sequence[Any], flow: Flow, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Return what runs on changed inputs show; without an axis that an input shares with an output, nothing runs.

    Args:
        run: Runs the network on arrays; an error of the network says nothing of causality, and nothing is shown.
        arrays: The network's inputs.
        flow: Of the run that found the sites.
        entries: The sites.
    """
    if not entries or not shared_axes(flow):
        return ()
    inputs = [np.asarray(array) for array in arrays]
    try:
        return probe(run, inputs, run(inputs, ()).outputs, entries).evidence
    except Exception:  # traced on shapes it is a network all the same: plan_eca has never needed its values
        return ()
