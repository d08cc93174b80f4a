"""Load a plain YOLO checkpoint into a network whose YAML has ECA lines, which shift the numbers of the layers."""

from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn
from ultralytics.engine.model import Model
from ultralytics.nn.tasks import load_checkpoint

from eca_multi.torch import ECA

from .network import network_of


@dataclass(frozen=True)
class Loaded:
    """What `load_plain` moved.

    Args:
        moved: How many tensors of the checkpoint the network took.
        total: How many tensors the checkpoint has.
        left: The names in the checkpoint of the others, which differ in shape or are not in the network.
    """

    moved: int
    total: int
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.moved} of {self.total} items moved"


def load_plain(model: Any, checkpoint: Any, *, verbose: bool = False) -> Loaded:
    """Load a plain checkpoint into a network whose YAML has ECA lines; ultralytics' own `load` does the moving.

    Args:
        model: A `YOLO` or its network; changed in place.
        checkpoint: A path of a .pt file, a `YOLO`, or a network, without ECA lines.
        verbose: Whether ultralytics logs what it moves.

    Returns:
        How many items moved, of how many.

    Raises:
        ValueError: If the layers of the two networks are not of the same classes in the same order, apart from ECA.
        TypeError: If an argument is of another type.

    Example:
        >>> from ultralytics.nn.tasks import DetectionModel, yaml_model_load
        >>> from eca_multi.ultralytics import load_plain, register
        >>> register()
        >>> yaml = yaml_model_load("yolov8n.yaml")
        >>> yaml["head"].insert(-1, [-1, 1, "ECA", [{"init": "identity"}]])
        >>> yaml["head"][-1][0] = [15, 18, 22]
        >>> print(load_plain(DetectionModel(yaml, verbose=False), DetectionModel("yolov8n.yaml", verbose=False)))
        355 of 355 items moved
    """
    network = network_of(model)
    shifted = _shifted(network_of(checkpoint if not _is_path(checkpoint) else load_checkpoint(checkpoint)[0]), network)
    network.load(shifted, verbose=verbose)
    if isinstance(model, Model):
        model.ckpt, model.ckpt_path = {"model": network}, None  # as their own load: train() then starts from here
    theirs, ours = shifted.state_dict(), network.state_dict()
    left = tuple(name for name, value in theirs.items() if name not in ours or ours[name].shape != value.shape)
    return Loaded(len(theirs) - len(left), len(theirs), left)


def _is_path(checkpoint: Any) -> bool:
    return isinstance(checkpoint, str | PathLike)


def _shifted(plain: Any, network: Any) -> Any:
    """Return a copy of the plain network with an empty layer for each ECA of the other: the numbers agree."""
    result = deepcopy(plain)
    rest = list(result.model)
    layers: list[Any] = [
        nn.Identity() if isinstance(layer, ECA) else (rest.pop(0) if rest else None) for layer in network.model
    ]
    pairs = list(zip(network.model, layers, strict=True))
    odd = next((i for i, (ours, theirs) in enumerate(pairs) if not _alike(ours, theirs)), len(pairs))
    if odd < len(pairs) or rest:
        ours = type(network.model[odd]).__name__ if odd < len(pairs) else "no layer"
        theirs = type(layers[odd] if odd < len(pairs) else rest[0]).__name__
        raise ValueError(
            "checkpoint must have the layers of the model without its ECA lines. Received: layer "
            f"{odd} is {ours} in the model and {theirs} in the checkpoint. Use model.load(checkpoint) for other layers."
        )
    result.model = nn.Sequential(*layers)
    return result


def _alike(ours: nn.Module, theirs: nn.Module | None) -> bool:
    return isinstance(ours, ECA) or type(ours) is type(theirs)
