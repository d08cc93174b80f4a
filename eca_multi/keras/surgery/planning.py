"""plan_eca and insert_eca for Keras."""

from collections.abc import Mapping
from dataclasses import replace as changed
from typing import Any

import numpy as np

from eca_multi.surgery.choose import choose
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Request, Where
from eca_multi.surgery.verify import check_verified

from ._arguments import input_shape, is_built, run
from ._checks import check_model, keeps_class
from ._edits import edits_for, located
from ._finders import FINDERS, calls_known, offers
from ._graph import Network
from ._inserted import InsertedECA
from ._kinds import kind
from ._places import Places
from ._rebuild import Edits, Rebuild
from .installed import installed_eca

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
    example_inputs: Any = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> ECAPlan:
    """Say where `insert_eca` would put ECA into a model; nothing is changed. Print the plan to read it.

    Args:
        model: A Functional or Sequential model; models in it are read too.
        where: "residual" (the branch right before each residual add, found by data flow), "block" (the end of every
            block, where layer names tell blocks), "conv_norm" (behind the norm that follows each convolution, else
            behind the convolution), "conv", "norm", "se" (in place of squeeze-and-excitation blocks), a list of layer
            paths ("layer", or "model/layer" for one in a nested model), or a callable (path, layer) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable
            (path, layer); each must match something.
        min_channels: Sites with fewer channels are left out.
        kernel_size: Odd size for all; None takes `eca_kernel_size(C, gamma=gamma, beta=beta)`.
        gamma, beta: The constants of that rule.
        gate, init: As in `ECA`. The defaults start as the identity: outputs stay bit-equal.
        example_inputs: An array, a tuple of inputs or a dict of them: for a Sequential that is not built.
        overrides: {pattern: {"kernel_size": k}}.

    Returns:
        The plan.

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
        "keras", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, example_inputs, overrides
    )
    check_model(model)
    return _planned(_shaped(model, example_inputs), request)


def insert_eca(
    model: Any,
    where: Where = "residual",
    *,
    plan: ECAPlan | None = None,
    include: Pattern | None = None,
    exclude: Pattern | None = None,
    min_channels: int = 0,
    kernel_size: int | None = None,
    gamma: float = 2,
    beta: float = 1,
    gate: str = "2sigmoid",
    init: str = "identity",
    example_inputs: Any = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    inplace: bool = False,
    verify: bool | None = None,
) -> Any:
    """Return a new model with ECA in it; `model` is not changed and shares nothing with it.

    The new model has new layers of the same names, with copies of the weights, and compile settings (not the
    optimizer's state). Load old weights before, or with `load_base_state`: `load_weights(..., skip_mismatch=True)`
    puts wrong weights into layers of the new model.

    Args:
        model: A Functional or Sequential model.
        plan: A plan for this architecture, instead of `where` and the keywords of `plan_eca`.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, overrides: As in `plan_eca`.
        example_inputs: An array, a tuple of inputs or a dict of them, to verify on.
        inplace: False: a Keras model cannot be changed in place.
        verify: Run old and new model on `example_inputs` and compare; None does so where they are given.

    Returns:
        The new model. A Functional subclass with an __init__ of its own comes back as a plain Functional model.

    Raises:
        PlanMismatchError: If the plan does not fit. VerifyError: If outputs or calls are not as planned.
        UnsupportedModelError, NoSiteError, ChannelInferenceError, TypeError, ValueError: As in `plan_eca`.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> [layer.name for layer in insert_eca(model, "conv").layers]
        ['conv', 'conv_eca']

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    if inplace:
        raise TypeError(
            f"inplace must be False. Received: inplace={inplace!r}. "
            "A Keras model is a graph that cannot be changed; use the model that insert_eca returns."
        )
    request = Request(
        "keras",
        where,
        include,
        exclude,
        min_channels,
        kernel_size,
        gamma,
        beta,
        gate,
        init,
        example_inputs,
        overrides,
        plan,
        verify,
    )
    check_model(model)
    source = _shaped(model, example_inputs)
    network = Network(source)
    places = Places(network)
    plan = _planned(source, request) if plan is None else plan
    found = located(places, plan.entries)
    entries = replay(plan, "keras", {path: site.candidate for path, site in found.items()})
    new = Rebuild(network, edits_for(plan, entries, found, network)).run()
    if request.is_verified():
        plan = changed(plan, entries=tuple(entries))
        _verify(plan, source, new, example_inputs)
    return new


def _planned(model: Any, request: Request) -> ECAPlan:
    network = Network(model)
    places = Places(network)
    sites = calls_known(FINDERS[request.kind](places), is_built(model))
    parameters = 0
    if model.built:
        ours = sum(op.count_params() for op in network.leaves() if isinstance(op, InsertedECA))
        parameters = model.count_params() - ours
    return choose(
        request,
        kind(model),
        [site.candidate for site in sites],
        model_parameters=parameters,
        notes=_notes(network),
        offers=lambda: offers(places),
        remedy=REMEDY,
    )


def _notes(network: Network) -> list[str]:
    model, notes = network.model, []
    for graph in network.graphs:
        if not keeps_class(graph.model):
            notes.append(
                f"{graph.model.name!r} is of class {kind(graph.model)}, whose __init__ is its own: "
                "the new model is a plain one with the same graph"
            )
    if model.compiled:
        notes.append("compile settings are carried over, the optimizer's state is not")
    if not model.trainable:
        notes.append("the model is frozen: of the new one the ECAs alone are trained")
    return notes


def _shaped(model: Any, example_inputs: Any) -> Any:
    """The model, or a built copy of a Sequential that is not built."""
    if is_built(model) or example_inputs is None:
        return model
    copy = Rebuild(Network(model), Edits()).run()
    copy.build(input_shape(example_inputs))
    return copy


def _verify(plan: ECAPlan, old: Any, new: Any, example_inputs: Any) -> None:
    before, after = run(old, example_inputs), run(new, example_inputs)
    same = len(before) == len(after) and all(
        x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True) for x, y in zip(before, after, strict=True)
    )
    own = {entry.path: entry.calls or 0 for entry in installed_eca(new).entries}
    calls = {entry.path: (entry.calls or 0, own.get(entry.path, 0)) for entry in plan.entries}
    check_verified(plan, same, calls)
