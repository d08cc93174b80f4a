"""Runs of an nnx network in which the outputs of some modules are kept: for the probe of causality."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from eca_multi.flax._run import Inputs, numbers
from eca_multi.flax.nnx.surgery._wrap import become, hidden, subclass
from eca_multi.surgery.causal_probe import Outcome

from .places import places

PATH = "eca_multi_watched"


class _Kept(threading.local):
    sites: dict[str, Any] | None = None


_kept = _Kept()


def watched(
    model: nnx.Module, fill: Callable[[Any], Inputs], method: str, arrays: Sequence[Any], paths: Sequence[str]
) -> Outcome:
    """Run a copy of the model in evaluation mode, operation by operation; the model stays as it is.

    Args:
        fill: Makes the inputs of the arrays.
        paths: Of the modules whose first outputs to keep; under a vmap an output has no values to keep.
    """
    copy: Any = nnx.clone(model)
    copy.eval()
    args, kwargs = fill([jax.numpy.asarray(array) for array in arrays])
    for place in places(copy):
        name = next((name for name in place.names if name in paths), None)
        if name is not None:
            setattr(place.module, PATH, name)
            base: Any = type(place.module)
            become(place.module, _watched_class(base))
    sites: dict[str, Any] = {}
    _kept.sites = sites
    try:
        outputs = getattr(copy, method)(*args, **kwargs)
    finally:
        _kept.sites = None
    return Outcome(numbers(outputs), sites)


@functools.cache
def _watched_class(base: Any) -> type[nnx.Module]:
    """Return a subclass whose outputs are kept, once for each module."""

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if PATH not in vars(self):  # the module's own call calls the module again
            return base.__call__(self, *args, **kwargs)
        with hidden(self, PATH) as path:
            y = base.__call__(self, *args, **kwargs)
        if _kept.sites is not None and isinstance(y, jax.Array) and not isinstance(y, jax.core.Tracer):
            _kept.sites.setdefault(path, np.asarray(y))
        return y

    return subclass(base, "Watched", type(base), {"__call__": __call__})
