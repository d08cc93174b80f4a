"""What stands behind a `YOLO`: the network that ultralytics builds, with its YAML and its list of layers."""

from typing import Any

from ultralytics.engine.model import Model
from ultralytics.nn.tasks import BaseModel


def network_of(model: Any) -> Any:
    """Return the network of a `YOLO`, or a network as it is.

    Raises:
        TypeError: If there is none: an exported file, or a network of another package.
    """
    network = model.model if isinstance(model, Model) else model
    if not isinstance(network, BaseModel):
        raise TypeError(
            f"model must be a YOLO with a PyTorch network, or that network. Received: {type(network).__name__}. "
            "An exported file holds no network: take the .pt. Other networks have eca_multi.torch.insert_eca."
        )
    return network
