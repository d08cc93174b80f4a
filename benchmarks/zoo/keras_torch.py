"""What the examination of a Keras network needs of torch itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


def gradients(loss: Callable[[], Any], weights: Sequence[Any]) -> list[Any]:
    """The gradient of a loss with respect to each weight, None where there is none."""
    return list(torch.autograd.grad(loss(), [weight.value for weight in weights], allow_unused=True))
