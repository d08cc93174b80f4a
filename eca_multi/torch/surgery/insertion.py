"""Plan and insert ECA in a torch network."""

import copy
from collections.abc import Mapping
from dataclasses import replace as changed
from typing import Any, TypeVar

import torch
from torch import nn

from eca_multi.surgery.candidate import Candidate
from eca_multi.surgery.entry import ECAEntry
from eca_multi.surgery.errors import UnsupportedModelError, VerifyError
from eca_multi.surgery.patterns import Pattern
from eca_multi.surgery.plan import ECAPlan
from eca_multi.surgery.replay import replay
from eca_multi.surgery.request import Request, Where
from eca_multi.surgery.verify import check_verified
from eca_multi.torch.layers import ECA, LazyECA

from ._candidates import Finder
from ._gated import Gated, GatedCall
from ._modules import CONVS, check_model
from ._observe import observe
from ._trees import parent_of, parents
from ._unchanged import unchanged_on_error

Model = TypeVar("Model", bound=nn.Module)
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
    model: nn.Module,
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
        model: Any `torch.nn.Module` made of modules.
        where: "residual" (the branch right before each residual add, found by the data flow of each block), "block"
            (the end of every block of a class that has such an add), "conv_norm" (the norm behind each convolution, or
            the convolution), "conv", "norm", "se" (replace SE blocks), "slot" (the empty attention slots of timm's
            networks), a list of exact paths ("layer1.0.bn2"), or a callable (path, module) -> bool.
        include, exclude: A regular expression for the whole path, a list of paths or suffixes, or a callable.
        min_channels: Leave sites with fewer channels.
        kernel_size, gamma, beta, gate: As in `ECA`.
        init: "identity" keeps the outputs bit-equal, "uniform" is the paper's.
        example_inputs: What the model is called with: a tensor, a tuple of positional inputs or a dict of keywords.
            One run in evaluation mode then tells shapes, layouts and calls, also where torch.fx cannot trace.
        overrides: {pattern: {"kernel_size": k}}.

    Returns:
        The plan, with a reason for each candidate that is left.

    Raises:
        NoSiteError: If nothing is found, or a pattern matches nothing. UnsupportedModelError: If the model is wrapped,
            compiled, being traced, or cannot be traced. ChannelInferenceError: If a site does not tell its channels.
            TypeError, ValueError: If an argument is invalid.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import plan_eca
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        ...     def forward(self, x):
        ...         return (x + self.bn(self.conv(x))).relu()
        >>> plan_eca(nn.Sequential(Block(), Block())).paths
        ('0.bn', '1.bn')

    Source: Wang et al., ECA-Net, CVPR 2020, for the place.
    """
    request = Request(where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, overrides)
    check_model(model)
    with unchanged_on_error(model, is_run=example_inputs is not None):
        return _planned(model, request, example_inputs)


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

    Each site is wrapped in the place where it stands: `layer1.0.bn2` becomes a module with the children `base` (the old
    module) and `eca`, which reads and writes all other attributes of the old one. Checkpoints from before load with
    `strict=False`, only the kernels are missing. Make the optimizer afterwards, or add the kernels to it:
    `optimizer.add_param_group({"params": eca_parameters(model)})`.

    Args:
        model: As in `plan_eca`.
        where, include, exclude, min_channels, kernel_size, gamma, beta, gate, init, example_inputs, overrides: As in
            `plan_eca`.
        plan: Carry out this plan instead, of this model or another one of the same architecture.
        inplace: Change the model itself; False changes a deep copy.
        verify: Run the model before and after and compare; None does so where there are example inputs.

    Returns:
        The model with ECA. A site that already has ECA is left as it is.

    Raises:
        PlanMismatchError: If the plan does not fit. VerifyError: If outputs differ that were promised equal, or an ECA
            is not called as often as its base; the model is put back. Others as `plan_eca`. Whatever is raised, the
            model is as it was.

    Example:
        >>> import torch
        >>> from eca_multi.torch import insert_eca
        >>> net = torch.nn.Sequential(torch.nn.Conv1d(3, 64, 3), torch.nn.ReLU())
        >>> x = torch.randn(2, 3, 20)
        >>> before = net(x)
        >>> net = insert_eca(net, "conv", example_inputs=x)
        >>> torch.equal(net(x), before)
        True

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
    if verify and example_inputs is None:
        raise ValueError("verify=True must come with example_inputs. Received: example_inputs=None. Pass an input.")
    check_model(model)
    with unchanged_on_error(model, is_run=example_inputs is not None):
        if plan is None:
            plan = _planned(model, Request(**options), example_inputs)
            entries = list(plan.entries)
        else:
            entries = _replayed(model, plan, options, example_inputs)
        if not inplace:
            model = copy.deepcopy(model)
        check = example_inputs is not None and verify is not False
        _carried_out(model, changed(plan, entries=tuple(entries)), example_inputs if check else None)
        return model


def _planned(model: nn.Module, request: Request, example_inputs: Any) -> ECAPlan:
    finder = Finder(model, example_inputs)
    return request.plan(
        "torch",
        type(model).__name__,
        finder.find(request.kind),
        model_parameters=base_parameters(model),
        offers=finder.offers,
    )


def _replayed(model: nn.Module, plan: Any, options: Mapping[str, Any], example_inputs: Any) -> list[ECAEntry]:
    if not isinstance(plan, ECAPlan):
        raise TypeError(f"plan must be an ECAPlan. Received: {type(plan).__name__}. Make it with plan_eca.")
    given = [name for name, default in DEFAULTS.items() if options[name] != default]
    if given:
        raise ValueError(
            f"plan must stand alone: it says already what is inserted. Received: plan and {', '.join(given)}. "
            "Pass these to plan_eca."
        )
    finder = Finder(model, example_inputs)
    kinds = {"after": "any", "replace": "se", "fill": "slot"}
    found: dict[str, Candidate] = {}
    for action in {entry.action for entry in plan.entries}:
        candidates = finder.find(kinds.get(action, "any"))
        there = {name: candidate for candidate in candidates for name in candidate.names}
        found |= {e.path: there[e.path] for e in plan.entries if e.action == action and e.path in there}
    return replay(plan, "torch", found)


def base_parameters(model: nn.Module) -> int:
    own = {id(p) for module in model.modules() if is_inserted(module) for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in own and not nn.parameter.is_lazy(p))


def is_inserted(module: nn.Module) -> bool:
    """Whether surgery made an ECA layer; a network may have ECA of its own."""
    return isinstance(module, ECA) and bool(getattr(module, "inserted", ""))


# --- the change -------------------------------------------------------------------------------------------------------


def _carried_out(model: nn.Module, plan: ECAPlan, example_inputs: Any) -> None:
    """Make all layers first, then change the network."""
    layers = [_layer(model, entry, plan) for entry in plan.entries]
    before = None if example_inputs is None else observe(model, example_inputs, {})
    for entry, layer in zip(plan.entries, layers, strict=True):
        _put(model, entry, layer)
    if before is not None:
        _verify(model, plan, example_inputs, before.outputs)


def _layer(model: nn.Module, entry: ECAEntry, plan: ECAPlan) -> ECA:
    """An ECA in the dtype and on the device of its site."""
    above, _ = parent_of(entry.path)
    near = [model.get_submodule(entry.path)] if entry.action != "fill" else []
    like = next((p for module in (*near, model.get_submodule(above), model) for p in _floating(module)), None)
    options: dict[str, Any] = {"gate": plan.gate, "init": plan.init, "channel_axis": entry.channel_axis}
    if like is not None:
        options |= {"device": like.device, "dtype": like.dtype}
    if entry.channels:
        layer: ECA = ECA(entry.channels, entry.kernel_size, **options)
    else:
        layer = LazyECA(entry.kernel_size, **options)
    layer.inserted = entry.action
    training = near[0].training if near else model.get_submodule(above).training
    return layer.train(training)


def _floating(module: nn.Module) -> list[torch.Tensor]:
    parameters = [p for p in module.parameters() if p.dtype.is_floating_point]
    return parameters + [b for b in module.buffers() if b.dtype.is_floating_point]


def _put(model: nn.Module, entry: ECAEntry, layer: ECA) -> None:
    if entry.action == "fill":
        above, name = parent_of(entry.path)
        block = model.get_submodule(above)
        layer.filled = type(getattr(block, name)).__name__
        setattr(block, name, layer)
        return
    base = model.get_submodule(entry.path)
    several = (isinstance(base, CONVS) and base.transposed) or any(True for _ in base.children())
    new = layer if entry.action == "replace" else (GatedCall if several else Gated)(base, layer)
    for parent, child in parents(model, base):
        parent._modules[child] = new  # in its place: order, indices and shared objects stay


def empty_slot(block: nn.Module, name: str, old: nn.Module | None) -> None:
    if isinstance(old, nn.Module):
        block._modules[name] = old
    else:
        block._modules.pop(name, None)
        object.__setattr__(block, name, None)


def _verify(model: nn.Module, plan: ECAPlan, example_inputs: Any, before: list[torch.Tensor]) -> None:
    bases: dict[str, nn.Module] = {}
    layers: dict[str, nn.Module] = {}
    for entry in plan.entries:
        site = model.get_submodule(entry.path)
        bases[entry.path] = site.base if isinstance(site, Gated) else site
        layers[entry.path] = site.eca if isinstance(site, Gated) else site
    try:
        run = observe(model, example_inputs, bases)
        own = observe(model, example_inputs, layers)
    except UnsupportedModelError as error:
        raise VerifyError(f"The network with ECA must run. Received: {error} The model was put back.") from error
    same = len(run.outputs) == len(before) and all(map(torch.equal, run.outputs, before))
    check_verified(plan, same, {path: (run.calls[path], own.calls[path]) for path in bases})
