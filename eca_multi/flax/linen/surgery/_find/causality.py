"""What shows that a linen network looks at no later position, or at one frame at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from eca_multi.flax._jaxpr.proof import evidence_of, proofs
from eca_multi.flax._probe import probed
from eca_multi.flax._run import is_abstract, numbers
from eca_multi.surgery.causal_probe import Outcome
from eca_multi.surgery.causality import Evidence
from eca_multi.surgery.entry import ECAEntry

from .call import Run, runner
from .finder import Finder


def evidence(finder: Finder, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Return the evidence about the sites of these ECAs: what the run's data flow proves, else what the probe sees."""
    shapes = {path: record.shapes[0] or () for path, record in finder.called.items()}
    batch_norms = [path for path, record in finder.called.items() if isinstance(record.module, nn.BatchNorm)]
    proved = proofs(finder.flow, settled=batch_norms)
    if proved or is_abstract((finder.variables, finder.call.inputs)):
        return evidence_of(proved, entries, shapes)
    return probed(_runner(finder), runner(finder.module, finder.call)[1], finder.flow, entries)


def _runner(finder: Finder) -> Callable[[Sequence[Any], Sequence[str]], Outcome]:
    """Return the function by which the probe runs the network, operation by operation."""

    def run(arrays: Sequence[Any], paths: Sequence[str]) -> Outcome:
        sites: dict[str, Any] = {}
        this = Run()

        def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            result = call(*args, **kwargs)
            path = "/".join(context.module.path) if this.owns(context.module) else ""
            if path in paths and context.method_name == "__call__" and not isinstance(result, jax.core.Tracer):
                sites.setdefault(path, np.asarray(result))
            return result

        apply, _ = runner(finder.module, finder.call, run=this)
        with nn.intercept_methods(watch):
            outputs = apply(finder.variables, arrays)[0]
        return Outcome(numbers(outputs), sites)

    return run
