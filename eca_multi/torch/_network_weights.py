"""Canonical weights in and out of whole networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from eca_multi._canonical import Weights, check_weights, narrowest, without_weight
from eca_multi.checkpoints.identify import identify
from eca_multi.networks import Tensor

from ._owned import assign
from .networks import ECANetwork


def network_to_canonical(model_or_state: ECANetwork | Mapping[str, torch.Tensor]) -> Weights:
    """Return a network's weights and statistics as a canonical dict of NumPy arrays; a copy."""
    native = _native(model_or_state).items()
    return {name: np.array(to_array(value).reshape(tensor.shape)) for name, (tensor, value) in native}


def network_from_canonical(
    model_or_state: ECANetwork | Mapping[str, torch.Tensor], weights: Mapping[str, np.ndarray]
) -> Any:
    """Load canonical weights: into a network in place, or into a new state dict."""
    native = _native(model_or_state)
    dtypes = {str(value.dtype).removeprefix("torch.") for _, value in native.values()}
    shapes = {name: tensor.shape for name, (tensor, _) in native.items()}
    arrays = check_weights(weights, shapes, narrowest(dtypes))
    if isinstance(model_or_state, Mapping):
        names = identify({name: value.shape for name, value in model_or_state.items()}).names
        new = {names[name]: _like(old, arrays[name]) for name, (_, old) in native.items()}
        return {name: new[name] if name in new else value.clone() for name, value in model_or_state.items()}
    targets = {name: value for name, (_, value) in native.items()}
    return assign(model_or_state, targets, {name: _like(value, arrays[name]) for name, value in targets.items()})


def _native(model_or_state: ECANetwork | Mapping[str, torch.Tensor]) -> dict[str, tuple[Tensor, torch.Tensor]]:
    """Return by canonical name the tensor of the table and the native tensor."""
    if isinstance(model_or_state, Mapping):
        network = identify({name: value.shape for name, value in model_or_state.items()})
        pairs = {name: (tensor, model_or_state[network.names[name]]) for name, tensor in network.tensors.items()}
    else:
        state = model_or_state.state_dict()
        listed = model_or_state.tensors.items()
        pairs = {name: (tensor, state[native_name(name, tensor)]) for name, tensor in listed}
    if any(value.is_meta for _, value in pairs.values()):
        raise without_weight("a network on the meta device", "Call to_empty(device=...) first.")
    return pairs


def native_name(name: str, tensor: Tensor) -> str:
    return f"{tensor.module}.conv.weight" if tensor.kind == "eca" else name


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The values, perhaps as a view; NumPy has no bfloat16, so that is widened to float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _like(old: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=old.dtype, device=old.device).reshape(old.shape)
