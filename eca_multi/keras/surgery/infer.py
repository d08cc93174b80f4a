"""Read a plan back: from a checkpoint of a Keras network, or from a live network with ECA."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from eca_multi import __version__
from eca_multi.surgery.infer import Kernel, asked_axes, check_checkpoint, inferred_plan
from eca_multi.surgery.plan import ECAPlan

from ._find.check import check_model
from ._find.finder import Finder
from ._find.graph import Network
from ._find.kinds import kind
from ._wrap.installed import installed_layers
from .plan import with_shapes

KEY = re.compile(r"(.*)_eca(?:_\d+)?/kernel")


def infer_plan(
    model: Any,
    state: Mapping[str, Any],
    *,
    gate: str = "2sigmoid",
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    example_inputs: Any = None,
) -> ECAPlan:
    """Return the plan that a state's keys and kernel sizes tell, for a model without ECA.

    Args:
        model: Of the architecture that the state is of, without ECA.
        state: {"<site>_eca/kernel": kernel}, as `eca_state` returns; other keys are passed over.
        gate: Of these ECAs, which no key tells; with "2sigmoid" the plan's `init` is "identity".
        pool_axes, causal_axis: As in `plan_eca`; they are in no checkpoint either.
        example_inputs: As in `plan_eca`: for a Sequential that is not built.

    Returns:
        A plan for `insert_eca(model, plan=...)`, equal to the plan that the state's network was made by;
        `load_eca_state` then loads the kernels. No key tells whether an ECA gates the branch of an add or all readers
        of that layer's output: where a residual branch ends, the plan is that of `where="residual"`.

    Raises:
        NoSiteError: If the state holds no ECA. PlanMismatchError: If the model lacks their sites.
        TypeError, ValueError: If an argument is invalid. UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import eca_state, infer_plan, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> state = eca_state(insert_eca(model, "conv", kernel_size=5))
        >>> infer_plan(model, state).entries[0].kernel_size
        5
    """
    check_model(model)
    check_checkpoint(state, gate)
    kernels = {
        match.group(1): Kernel(int(kernel.shape[0]), prod(kernel.shape))
        for key, kernel in state.items()
        if (match := KEY.fullmatch(key))
    }
    finder = Finder(with_shapes(model, example_inputs))
    special = [*(c for c in finder.find("residual") if c.into), *finder.find("se")]
    at_path = {name: c for c in (*finder.find("any"), *special) for name in c.names}
    return inferred_plan(
        "keras",
        kind(model),
        kernels,
        at_path,
        gate=gate,
        key="<site>_eca/kernel",
        model_parameters=model.count_params() if model.built else 0,
        axes=asked_axes("keras", pool_axes, causal_axis),
    )


def installed_eca(model: Any) -> ECAPlan:
    """Return the plan of what `insert_eca` put into a model, read from its graph, after a reload too.

    ECA layers of the network's own are not listed.

    Args:
        model: Functional or Sequential.

    Returns:
        A plan; without entries where the model has no inserted ECA.

    Raises:
        UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca, installed_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> installed_eca(insert_eca(model, "conv")).paths
        ('conv',)
    """
    check_model(model)
    installed = installed_layers(Network(model))
    layers = [layer for layer, _ in installed]
    first = layers[0] if layers else None
    wheres = {layer.where for layer in layers}
    return ECAPlan(
        "keras",
        kind(model),
        where=wheres.pop() if len(wheres) == 1 else "paths",
        gate=str(first.gate) if first else "2sigmoid",
        init=first.init if first else "identity",
        gamma=first.gamma if first else 2,
        beta=first.beta if first else 1,
        entries=tuple(entry for _, entry in installed),
        model_parameters=(model.count_params() - sum(x.count_params() for x in layers)) if model.built else 0,
        package=__version__,
    )
