"""Say where ECA would be inserted in a Keras network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from eca_multi.surgery.choose import choose
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.request import Overrides, Request, Where

from ._find.causal import evidence
from ._find.check import check_model, does_not_run
from ._find.finder import Finder
from ._find.graph import Network, is_built
from ._find.kinds import kind
from ._wrap.edits import Edits
from ._wrap.installed import InsertedECA
from ._wrap.rebuild import rebuilt

REMEDY = "Pass example_inputs, or build the model with its input shape."


def plan_eca(
    model: Any,
    where: Where = "residual",
    *,
    include: Pattern | None = None,
    exclude: Pattern | None = None,
    min_channels: int = 0,
    kernel_size: int | None = None,
    gamma: float = 2,
    beta: float = 1,
    gate: str = "2sigmoid",
    init: str = "identity",
    pool_axes: int | Sequence[int] | None = None,
    causal_axis: int | None = None,
    keep_causality: bool = True,
    example_inputs: Any = None,
    overrides: Overrides | None = None,
) -> ECAPlan:
    """Return what `insert_eca` would do. Nothing changes; printing the plan is the dry run.

    Args:
        model: A Functional or Sequential model; models in it are read too.
        where: "residual" (the branch right before each residual add, found by data flow), "block" (the end of every
            block, where layer names tell blocks), "conv_norm" (behind the norm that follows each convolution, else
            behind the convolution), "conv", "norm", "se" (in place of squeeze-and-excitation blocks), a list of layer
            paths ("layer", or "model/layer" for one in a nested model), or a callable (path, layer) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable
            (path, layer); each must match something.
        min_channels: Sites with fewer channels are left out.
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's.
        pool_axes, causal_axis: As in `ECA`; the axes count in (N, *S, C) for a site of the same rank. At a site with
            another channel axis the same spatial axes are meant.
        keep_causality: Find out whether the network sees no later positions, or one frame at a time, so that
            `insert_eca` refuses ECAs that would break that. False does not look, and inserts all the same.
        example_inputs: An array, a tuple of inputs or a dict of them: for a Sequential that is not built.
        overrides: {pattern: {"kernel_size": k, "channel_axis": 1 or -1, "pool_axes": axes, "causal_axis": axis}}, or
            some of these.

    Returns:
        The plan, with a reason for each candidate that is left out.

    Raises:
        UnsupportedModelError: If the model has no graph to read. NoSiteError: If nothing, or a pattern, matches.
        ChannelInferenceError: If channels are unknown. TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import keras
        >>> from eca_multi.keras import plan_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> plan_eca(model, "conv").paths
        ('conv',)

    Source: Wang et al., ECA-Net, CVPR 2020 (the gate stands right before the residual add).
    """
    request = Request(
        "keras", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides,
    )  # fmt: skip
    check_model(model)
    return plan_for(request, Finder(with_shapes(model, example_inputs)))


def plan_for(request: Request, finder: Finder) -> ECAPlan:
    model, parameters = finder.model, 0
    if model.built:
        inserted = [layer for layer in finder.network.leaves() if isinstance(layer, InsertedECA)]
        parameters = model.count_params() - sum(layer.count_params() for layer in inserted)
    plan = choose(
        request,
        kind(model),
        finder.find(request.kind),
        model_parameters=parameters,
        notes=_notes(finder.network),
        offers=finder.offers,
        remedy=REMEDY,
    )
    if not request.keep_causality:
        return plan
    return replace(plan, evidence=evidence(finder, plan.entries, request.example_inputs))


def with_shapes(model: Any, example_inputs: Any) -> Any:
    """Return the model, or a built copy of a Sequential that is not built."""
    if is_built(model) or example_inputs is None:
        return model
    copy = rebuilt(Network(model), Edits())
    try:
        (x,) = keras.tree.flatten(example_inputs)
        copy.build((None, *np.shape(x)[1:]))
    except Exception as error:
        raise does_not_run(error) from error
    return copy


def _notes(network: Network) -> list[str]:
    model, notes = network.model, []
    if model.compiled:
        notes.append("compile settings and the optimizer's state are carried over")
    if not model.trainable:
        notes.append("the model is frozen: of the new one the ECAs alone are trained")
    return notes
