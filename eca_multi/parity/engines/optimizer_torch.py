"""PyTorch's own optimizers, step by step, with the textbook's states given and returned."""

from typing import Any

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
        # torch.tensor copies: a step changes its tensors in place.
        parameters = {name: torch.nn.Parameter(torch.tensor(w)) for name, w in weights.items()}
        native = _MAKERS[kind](list(parameters.values()), float(rate))
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(grads[name])
            state = {key: torch.tensor(slots.get(f"{s}.{name}", 0 * grads[name])) for s, key in _SLOTS[kind].items()}
            native.state[parameter] = state | ({"step": torch.tensor(step - 1.0)} if kind == "adam" else {})
        native.step()
        names = _SLOTS[kind].items()
        new = {f"{s}.{n}": native.state[p][key].numpy() for n, p in parameters.items() for s, key in names}
        return {name: parameter.detach().numpy() for name, parameter in parameters.items()}, new

    return NativeOptimizer(update, "torch.optim.Adam" if kind == "adam" else "torch.optim.SGD")
