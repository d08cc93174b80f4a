"""PyTorch's own optimizers, step by step, with the textbook's states given and returned."""

from typing import Any

import numpy as np
import torch

from eca_multi.parity.define.optimizers import ADAM, MOMENTUM, Arrays, NativeOptimizer

_MAKERS: dict[str, Any] = {
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, rate),
    "momentum": lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=MOMENTUM),
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, rate, ADAM[:2], ADAM[2]),
}
_SLOTS = {"sgd": {}, "momentum": {"m": "momentum_buffer"}, "adam": {"m": "exp_avg", "v": "exp_avg_sq"}}


def optimizer(kind: str) -> NativeOptimizer:
    def update(weights: Arrays, grads: Arrays, slots: Arrays, step: int, rate: float) -> tuple[Arrays, Arrays]:
        parameters = {name: torch.nn.Parameter(_tensor(w)) for name, w in weights.items()}
        own = _MAKERS[kind](list(parameters.values()), float(rate))
        for name, parameter in parameters.items():
            parameter.grad = _tensor(grads[name])
            state = {key: _tensor(slots.get(f"{s}.{name}", 0 * grads[name])) for s, key in _SLOTS[kind].items()}
            own.state[parameter] = state | ({"step": torch.tensor(step - 1.0)} if kind == "adam" else {})
        own.step()
        new = {f"{s}.{n}": own.state[p][key].numpy() for n, p in parameters.items() for s, key in _SLOTS[kind].items()}
        return {name: parameter.detach().numpy() for name, parameter in parameters.items()}, new

    return NativeOptimizer(update, "torch.optim.Adam" if kind == "adam" else "torch.optim.SGD")


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array)  # a copy, which it may change in place
