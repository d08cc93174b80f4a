"""The weights of a torch network and those of its ECAs, apart: two state dicts, for two checkpoints."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from eca_multi._states import check_fits, converted, shape_of
from eca_multi.surgery.errors import no_eca
from eca_multi.torch._owned import assign, owned
from eca_multi.torch._private import versions_of
from eca_multi.torch.layers import ECA

from ._find.check import check_model, check_module
from ._wrap.sites import is_inserted

Model = TypeVar("Model", bound=nn.Module)


def eca_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the kernels of all ECA layers, for an optimizer.

    Args:
        model: A network with ECA; a compiled or wrapped one too (DistributedDataParallel, fully_shard).

    Returns:
        The parameters, each once, in the network's order.

    Raises:
        NoSiteError: If the network has no ECA.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import eca_parameters, insert_eca
        >>> net = insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")
        >>> [tuple(kernel.shape) for kernel in eca_parameters(net)]
        [(1, 1, 3)]
    """
    check_module(model)
    kernels = {id(p): p for module in model.modules() if isinstance(module, ECA) for p in module.parameters()}
    if not kernels:
        raise no_eca(type(model).__name__)
    return list(kernels.values())


def freeze_except_eca(model: Model) -> Model:
    """Let only the ECA kernels be trained: `requires_grad` of all others is switched off.

    Args:
        model: A network with ECA; changed in place. In training mode its norms still update their running statistics:
            call `model.eval()` to keep these too.

    Returns:
        The model.

    Raises:
        NoSiteError: If the network has no ECA, so that nothing would be trained.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import freeze_except_eca, insert_eca
        >>> net = freeze_except_eca(insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv"))
        >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
        ['0.eca.conv.weight']
    """
    kernels = {id(kernel) for kernel in eca_parameters(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kernels)
    return model


def base_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict without the inserted ECAs, as the plain network's `state_dict()` has it.

    Args:
        model: With or without ECA.

    Returns:
        A new dict; the tensors are the model's own.

    Raises:
        TypeError, UnsupportedModelError: As `plan_eca`.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import base_state, insert_eca
        >>> list(base_state(insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")))
        ['0.weight', '0.bias']
    """
    return _part(model, of_eca=False)


def eca_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the kernels of the inserted ECAs alone: a few hundred numbers for a large network.

    Args:
        model: A network with ECA.

    Returns:
        A new dict; the tensors are the model's own.

    Raises:
        NoSiteError: If the network has no ECA.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import eca_state, insert_eca
        >>> list(eca_state(insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")))
        ['0.eca.conv.weight']
    """
    eca_parameters(model)
    return _part(model, of_eca=True)


def load_base_state(model: Model, state: Mapping[str, torch.Tensor]) -> Model:
    """Load a plain network's state dict into a network with ECA; its ECAs go back to the identity.

    Args:
        model: With or without ECA; changed in place.
        state: What `base_state` returned, or the state dict of a plain network.

    Returns:
        The model. ECAs whose gate is not 2*sigmoid have no identity and keep their kernels.

    Raises:
        ValueError: With all missing, unexpected and mis-shaped tensors; or with all tensors that hold numbers out of
            range, or NaN or infinity where the model holds none (a mask may hold -inf). TypeError: With all entries
            that are no tensors with values, or of another kind of number. After an error the model is as it was; the
            model never shares memory with `state`.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import insert_eca, load_base_state
        >>> old = nn.Sequential(nn.Conv2d(3, 64, 3)).state_dict()
        >>> net = load_base_state(insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv"), old)
    """
    targets, new = _fitting(model, state, of_eca=False)
    for path, module in model.named_modules():
        if isinstance(module, ECA) and is_inserted(module) and module.gate == "2sigmoid":
            kernel = module.conv.weight
            if not is_lazy(kernel):  # a LazyECA makes its kernel at the first call
                targets[f"{path} (ECA)"], new[f"{path} (ECA)"] = kernel.detach(), torch.zeros_like(kernel)
    return assign(model, targets, new)


def load_eca_state(model: Model, state: Mapping[str, torch.Tensor]) -> Model:
    """Load what `eca_state` returned.

    Args:
        model: With the same ECAs; changed in place.
        state: A state dict of kernels.

    Returns:
        The model.

    Raises:
        NoSiteError: If the model has no ECA. TypeError, ValueError: As `load_base_state`; nothing is changed.

    Example:
        >>> from torch import nn
        >>> from eca_multi.torch import eca_state, insert_eca, load_eca_state
        >>> net = insert_eca(nn.Sequential(nn.Conv2d(3, 64, 3)), "conv")
        >>> net = load_eca_state(net, eca_state(net))
    """
    eca_parameters(model)
    return assign(model, *_fitting(model, state, of_eca=True))


def _part(model: nn.Module, of_eca: bool) -> "OrderedDict[str, torch.Tensor]":
    check_model(model)
    named = list(model.named_modules(remove_duplicate=False))
    inserted = tuple(f"{path}." for path, module in named if is_inserted(module))
    state: Any = model.state_dict()
    part = OrderedDict((key, value) for key, value in state.items() if key.startswith(inserted) == of_eca)
    # The versions of modules, without which some refuse a state dict; torch's own load_state_dict reads them there.
    versions = {path: kept for path, kept in versions_of(state).items() if f"{path}.".startswith(inserted) == of_eca}
    vars(part)["_metadata"] = versions
    return part


def _fitting(model: nn.Module, state: Any, *, of_eca: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the model's tensors by name, and checked copies of the tensors in the state."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a state dict. Received: {type(state).__name__}. "
            f"Pass what {'eca_state' if of_eca else 'base_state'} returned."
        )
    targets = _part(model, of_eca)
    _check_values(targets)
    values = {name: state[name] for name in state}  # a mapping may read a file, so read each entry once
    check_fits(targets, values, of_eca, shape=_shape)
    # The extra state of a module is no tensor and is not loaded.
    tensors = {name: tensor for name, tensor in targets.items() if isinstance(tensor, torch.Tensor)}
    return tensors, converted({name: (values[name], tensor) for name, tensor in tensors.items()}, owned)


def _check_values(targets: Mapping[str, Any]) -> None:
    """Refuse a model whose tensors have no memory: loading into such tensors loses the numbers silently."""
    tensors = {name: tensor for name, tensor in targets.items() if isinstance(tensor, torch.Tensor)}
    empty = [name for name, tensor in tensors.items() if is_lazy(tensor) or tensor.is_meta]
    if empty:
        raise ValueError(
            f"model must hold its tensors. Received: {', '.join(empty)} without values. "
            "Call to_empty(device=...) on a model on the meta device, and a lazy one once on an input."
        )


def _shape(value: Any) -> tuple[int, ...] | None:
    return shape_of(value) if isinstance(value, torch.Tensor) and not is_lazy(value) else None
