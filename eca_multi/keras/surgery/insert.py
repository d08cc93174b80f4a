"""Insert ECA in a Keras network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eca_multi.surgery.causality import check_causality
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import candidates_at, replay
from eca_multi.surgery.request import Overrides, Request, Where, check_flag

from ._find.causal import evidence
from ._find.check import check_model
from ._find.finder import Finder
from ._wrap.edits import edits_for
from ._wrap.kept import kept
from ._wrap.rebuild import rebuilt
from .plan import plan_for, with_shapes
from .verify import verify as verify_run


def insert_eca(
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
    plan: ECAPlan | None = None,
    verify: bool | None = None,
    keep_class: bool = True,
) -> Any:
    """Return a new model with ECA in it; `model` is not changed and shares nothing with the new model.

    The new model has new layers of the same names, with copies of the weights, compile settings and the optimizer's
    state. It is of the old one's class, with copies of all attributes; its `get_config` tells the ECAs. Load old
    weights before, or with `load_base_state`: `load_weights(..., skip_mismatch=True)` puts wrong weights into layers of
    the new model.

    Args:
        model: A Functional or Sequential model. A Keras graph cannot be changed in place.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
            keep_causality, overrides: As in `plan_eca`.
        example_inputs: An array, a tuple of inputs or a dict of them, to verify on.
        plan: A plan for this architecture, instead of `where` and the keywords of `plan_eca`.
        verify: Run old and new model on `example_inputs` and compare; None does so where they are given.
        keep_class: False makes plain Functional and Sequential models of those whose class has an __init__ of its own,
            without attributes, methods and train_step of that class.

    Returns:
        The new model.

    Raises:
        PlanMismatchError: If the plan does not fit. CausalityError: If ECAs would carry later positions into earlier
            ones, or one frame into another. VerifyError: If outputs or calls are not as planned.
        UnsupportedModelError: As in `plan_eca`; or if a class cannot be kept: an attribute cannot be copied, or the
            class makes another network from its config.
        NoSiteError, ChannelInferenceError, TypeError, ValueError: As in `plan_eca`.

    Example:
        >>> import keras
        >>> from eca_multi.keras import insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> [layer.name for layer in insert_eca(model, "conv").layers]
        ['conv', 'conv_eca']

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    request = Request(
        "keras", where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, pool_axes, causal_axis,
        keep_causality, example_inputs, overrides, plan, verify,
    )  # fmt: skip
    check_flag("keep_class", keep_class)
    check_model(model)
    finder = Finder(with_shapes(model, example_inputs))
    if plan is None:
        plan = plan_for(request, finder)
    entries = replay(plan, "keras", candidates_at(plan, finder.find))
    if plan.keep_causality and keep_causality:
        found = plan.evidence
        if request.plan is not None:  # which may have been made for another model, or without a look at this
            found = (*found, *evidence(finder, entries, example_inputs))
        check_causality("keras", plan.model, entries, dict.fromkeys(found))
    new = rebuilt(finder.network, edits_for(plan, entries, finder), keep_class=keep_class)
    if keep_class:
        kept(new)
    if request.is_verified():
        verify_run(replace(plan, entries=tuple(entries)), finder.model, new, example_inputs)
    return new
