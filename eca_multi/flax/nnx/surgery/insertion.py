"""Plan and insert ECA in an nnx network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from functools import partial
from typing import Any, TypeVar

import jax
from flax import nnx

from eca_multi._undo import undone_on_error
from eca_multi.flax._owned import copied
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import ChannelInferenceError, UnsupportedModelError
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Request, Where

from . import _gated
from ._candidates import Finder, is_abstract
from ._installed import base_parameters
from ._layers import layer_for, parameters_of
from ._modules import Shape, check_model, places
from ._trace import trace
from ._verify import verify

Model = TypeVar("Model", bound=nnx.Module)
DEFAULTS: dict[str, Any] = {
    "where": "residual",
    "include": None,
    "exclude": None,
    "min_channels": 0,
    "kernel_size": None,
    "gamma": 2,
    "beta": 1,
    "gate": "2sigmoid",
    "init": "identity",
    "overrides": None,
}


def plan_eca(
    model: nnx.Module,
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
    """Say where ECA would be inserted; the model stays as it is. Print the plan to read it.

    Args:
        model: Any `nnx.Module`, in training or evaluation mode.
        where: "residual" (the branch right before each residual add, found by the data flow of one traced run),
            "block" (the end of every block of a class that has such an add), "conv_norm" (the norm after each
            convolution, or the convolution), "conv", "norm", "se" (replace SE blocks), a list of exact paths
            ("layer1.0.bn2", as `nnx.iter_graph` has them, joined by dots), or a callable (path, module) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable.
        min_channels: Leave sites with fewer channels.
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's; a function of the site's path alone.
        example_inputs: What the model is called with: an array, a tuple of positional inputs or a dict of keywords.
            Shapes count, zeros will do. Needed for "residual", "block" and "se": an nnx network has no graph before
            it runs. Where given, ranks, layouts and calls are known too.
        overrides: {pattern: {"kernel_size": k}}.

    Returns:
        The plan, with a reason for each candidate that is left.

    Raises:
        NoSiteError: If nothing is found, or a pattern matches nothing. UnsupportedModelError: If the model is being
            traced, cannot be traced, or comes without example inputs where they are needed. ChannelInferenceError: If
            a site does not tell its channels. TypeError, ValueError: If an argument is invalid.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import plan_eca
        >>> class Block(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        ...         self.bn = nnx.BatchNorm(8, rngs=rngs)
        ...     def __call__(self, x):
        ...         return nnx.relu(x + self.bn(self.conv(x)))
        >>> plan_eca(Block(nnx.Rngs(0)), example_inputs=jnp.zeros((1, 8, 8, 8))).paths
        ('bn',)

    Source: Wang et al., ECA-Net, CVPR 2020, for the place; research/surgery.md for how it is found.
    """
    request = Request(where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, overrides)
    return _planned(model, request, example_inputs)[0]


def insert_eca(
    model: Model,
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
    inplace: bool = True,
    verify: bool | None = None,
) -> Model:
    """Insert ECA; right after it the model returns what it returned before, bit for bit.

    That holds operation by operation. Under `jax.jit` XLA compiles another program, which may round a last digit in
    another way.

    Each site stays the same object with the same variables under the same paths, and gains a child `eca` with a kernel
    of type `ECAParam`. Do it before an `nnx.Optimizer` is made: an older one does not know the kernels and raises.

    Args:
        model: As in `plan_eca`.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, example_inputs, overrides: As in
            `plan_eca`.
        plan: Carry out this plan instead, of this model or another one of the same architecture.
        inplace: Change the model itself; False changes a copy, of the arrays too.
        verify: Run the model before and after and compare; None does so where there are example inputs.

    Returns:
        The model with ECA. A site that already has ECA is left as it is.

    Raises:
        PlanMismatchError: If the plan does not fit. VerifyError: If outputs differ that were promised equal, or an ECA
            is not called as often as its site; the model is put back. Others as `plan_eca`. Whatever is raised, the
            model is as it was.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import insert_eca, installed_eca
        >>> net = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), nnx.relu)
        >>> net = insert_eca(net, "conv", example_inputs=jnp.zeros((1, 8, 8, 3)))
        >>> installed_eca(net).paths
        ('layers.0',)

    Source: Wang et al., ECA-Net, CVPR 2020.
    """
    options: dict[str, Any] = {
        "where": where,
        "include": include,
        "exclude": exclude,
        "min_channels": min_channels,
        "kernel_size": kernel_size,
        "gamma": gamma,
        "beta": beta,
        "gate": gate,
        "init": init,
        "overrides": overrides,
    }
    if plan is None:
        plan, finder = _planned(model, Request(**options), example_inputs)
        entries = list(plan.entries)
    else:
        plan, finder, entries = _replayed(model, plan, options, example_inputs)
    check = _is_verified(verify, model, example_inputs)
    stacks = [finder.stack(finder.at[entry.path]) or () for entry in entries]
    if not inplace:
        model = _copied(model)
    original = nnx.clone(model) if check else None
    return _carried_out(model, changed(plan, entries=tuple(entries)), stacks, example_inputs, original)


def _copied(model: Model) -> Model:
    """nnx.clone makes new variables of the same arrays: donating those of one model would delete the other's."""
    copy: Model = nnx.clone(model)
    nnx.update(copy, jax.tree.map(copied, nnx.state(copy)))
    return copy


def _planned(model: nnx.Module, request: Request, example_inputs: Any) -> tuple[ECAPlan, Finder]:
    check_model(model)
    if request.kind == "slot":
        raise ValueError(
            "where must be one of the kinds of this framework. Received: where='slot'. It fills empty slots of "
            "timm's networks, which are of torch; use 'residual', or a list of paths."
        )
    finder = Finder(model, None if example_inputs is None else trace(model, example_inputs))
    found = finder.find(request.kind)
    plan = request.plan(
        "nnx",
        type(model).__name__,
        found,
        model_parameters=base_parameters(model),
        notes=() if finder.run else ("without example_inputs ranks, calls and unused modules are not known",),
        offers=finder.offers,
    )
    return changed(plan, entries=tuple(_sized(entry, finder) for entry in plan.entries)), finder


def _sized(entry: ECAEntry, finder: Finder) -> ECAEntry:
    """ECA of nnx is built for a number of channels, and a stacked block has a kernel for each of its layers."""
    if not entry.channels:
        raise ChannelInferenceError(
            f"The number of channels at {entry.path!r} ({entry.module_type}) must be known to build its ECA. "
            "Received: a module that does not say it. Pass example_inputs."
        )
    return changed(entry, parameters=parameters_of(entry, finder.stack(finder.at[entry.path]) or ()))


def _replayed(
    model: nnx.Module, plan: Any, options: Mapping[str, Any], example_inputs: Any
) -> tuple[ECAPlan, Finder, list[ECAEntry]]:
    check_model(model)
    if not isinstance(plan, ECAPlan):
        raise TypeError(f"plan must be an ECAPlan. Received: {type(plan).__name__}. Make it with plan_eca.")
    given = [name for name, default in DEFAULTS.items() if options[name] != default]
    if given:
        raise ValueError(
            f"plan must stand alone: it says already what is inserted. Received: plan and {', '.join(given)}. "
            "Pass these to plan_eca."
        )
    finder = Finder(model, None if example_inputs is None else trace(model, example_inputs))
    found = {name: candidate for candidate in finder.find("any") for name in candidate.names}
    entries = replay(plan, "nnx", {path: found[path] for path in plan.paths if path in found})
    # A plan from a checkpoint's keys may not know the channels.
    entries = [changed(entry, channels=entry.channels or found[entry.path].channels or 0) for entry in entries]
    return plan, finder, [_sized(entry, finder) for entry in entries]


def _is_verified(wanted: bool | None, model: nnx.Module, example_inputs: Any) -> bool:
    if wanted is False or (wanted is None and example_inputs is None):
        return False
    if example_inputs is None:
        raise ValueError("verify=True must come with example_inputs. Received: example_inputs=None. Pass an input.")
    if is_abstract(model) or _has_shapes(example_inputs):
        if wanted:
            raise UnsupportedModelError(
                "verify=True must run the model. Received: shapes in place of values. Pass verify=False."
            )
        return False
    return True


def _has_shapes(example_inputs: Any) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(example_inputs))


def _carried_out(
    model: Model, plan: ECAPlan, stacks: Sequence[Shape], example_inputs: Any, original: nnx.Module | None
) -> Model:
    """Make all layers first, then change the sites; whatever is raised puts all of them back."""
    at = {name: place.module for place in places(model) for name in (place.path, *place.aliases)}
    sites = [at[entry.path] for entry in plan.entries]
    layers = [
        layer_for(site, entry, plan, stack) for site, entry, stack in zip(sites, plan.entries, stacks, strict=True)
    ]
    with undone_on_error([partial(_gated.restore, site, _gated.snapshot(site)) for site in sites]):
        for site, layer in zip(sites, layers, strict=True):
            _gated.put(site, layer)
        if original is not None:
            verify(model, example_inputs, plan, original)
        return model
