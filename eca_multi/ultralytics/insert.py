"""Put ECA into a YOLO network that exists, so that training, validation, prediction and export keep it."""

from dataclasses import replace
from typing import Any

import torch
from ultralytics.engine.model import Model
from ultralytics.nn.modules.block import RepVGGDW
from ultralytics.nn.tasks import RTDETRDetectionModel, WorldModel, YOLOEModel

from eca_multi import torch as eca_torch
from eca_multi.surgery.entry import Skipped
from eca_multi.surgery.errors import NoSiteError, UnsupportedModelError
from eca_multi.surgery.plan import ECAPlan

from .network import network_of
from .places import where_of
from .record import keep

# The trainers of these build the network from the name of its YAML, and would lose the gates.
BUILT_BY_NAME = (WorldModel, YOLOEModel)
MERGED_REASON = "inside of a RepVGGDW, whose fuse() makes one convolution of its two: name that module itself"


def plan_eca(model: Any, where: Any = "residual", **options: Any) -> ECAPlan:
    """Say where `insert_eca` would put ECA; the network stays as it is.

    Args:
        model, where, options: As in `insert_eca`.

    Returns:
        The plan, as `eca_multi.torch.plan_eca` returns it.

    Raises:
        As `insert_eca`.

    Example:
        >>> from ultralytics import YOLO
        >>> from eca_multi.ultralytics import plan_eca
        >>> plan_eca(YOLO("yolov8n.yaml"), "before Detect").paths
        ('model.15', 'model.18', 'model.21')
    """
    return _plan(_checked(model), where, options)


def insert_eca(model: Any, where: Any = "residual", **options: Any) -> Any:
    """Put ECA into a YOLO network; right afterwards its outputs are what they were, bit for bit.

    All names stay, so that `load` moves all weights. The gates are recorded in the network's YAML, `model.yaml`, from
    which trainers build the network again: `train`, its checkpoints and `resume` keep the gates, in a process that
    reads a saved .pt too.

    Args:
        model: A `YOLO` or `RTDETR`, or its network (`yolo.model`); changed in place. Pass the `YOLO` itself where it
            was made from a YAML, for its `train` otherwise starts from that file.
        where: A kind of place of `eca_multi.torch.insert_eca`: "residual", "block", "conv_norm" and so on. Or words:
            a class, as written or in lower case ("c2f", "Bottleneck"); "after SPPF" for layers of the YAML; "before
            Detect" for the layers that Detect takes; each with " in backbone" or " in head", the sections of the YAML.
            Or a list of words and paths, or a callable.
        options: Those of `eca_multi.torch.insert_eca`, without `inplace`. `example_inputs` is an image of zeros where
            none is given.

    Returns:
        The model.

    Raises:
        NoSiteError: If words name no module. UnsupportedModelError: For YOLO-World and YOLOE. Others as
            `eca_multi.torch.insert_eca`. After an error the model is as it was.

    Example:
        >>> from ultralytics import YOLO
        >>> from eca_multi.torch import installed_eca
        >>> from eca_multi.ultralytics import insert_eca
        >>> yolo = insert_eca(YOLO("yolov8n.yaml"), ["c2f in backbone", "after SPPF"])
        >>> installed_eca(yolo.model).paths
        ('model.2', 'model.4', 'model.6', 'model.8', 'model.9')

    Source: Wang et al., ECA-Net, CVPR 2020, for the attention.
    """
    network = _checked(model)
    _check_gate(network, options)
    image, plan, verify = _image(network, options), options.pop("plan", None), options.pop("verify", None)
    if plan is None:
        plan, where, options = _plan(network, where, {**options, "example_inputs": image}), "residual", {}
    eca_torch.insert_eca(network, where, **{**options, "plan": plan, "example_inputs": image, "verify": verify})
    return _kept(model, network)


def remove_eca(model: Any, include: Any = None) -> Any:
    """Take ECA out of a YOLO network and out of its YAML's record; ECA lines of the YAML stay.

    Args:
        model: A `YOLO` or its network; changed in place.
        include: As in `eca_multi.torch.remove_eca`.

    Returns:
        The model.

    Raises:
        As `eca_multi.torch.remove_eca`.

    Example:
        >>> from ultralytics import YOLO
        >>> from eca_multi.ultralytics import insert_eca, remove_eca
        >>> yolo = remove_eca(insert_eca(YOLO("yolov8n.yaml"), "c2f"))
        >>> any("eca" in name for name in yolo.model.state_dict())
        False
    """
    network = network_of(model)
    eca_torch.remove_eca(network, include)
    return _kept(model, network)


def _checked(model: Any) -> Any:
    network = network_of(model)
    if isinstance(network, BUILT_BY_NAME):
        raise UnsupportedModelError(
            f"model must be built from its YAML by its trainer. Received: a {type(network).__name__}, whose trainer "
            "builds from the name of the YAML and would lose the gates. Write ECA lines into the YAML instead."
        )
    return network


def _check_gate(network: Any, options: dict[str, Any]) -> None:
    """Refuse a second kind of gate before anything is changed: the record in the YAML names one."""
    plan = options.get("plan")
    wanted = plan.gate if isinstance(plan, ECAPlan) else options.get("gate", "2sigmoid")
    there = eca_torch.installed_eca(network)
    if there.entries and there.gate != wanted:
        raise ValueError(
            f"gate must be that of the ECAs in the network, {there.gate!r}. Received: gate={wanted!r}. "
            "Call remove_eca first, and insert all with one gate."
        )


def _plan(network: Any, where: Any, options: dict[str, Any]) -> ECAPlan:
    """Plan, without what fuse() merges."""
    options = {**options, "example_inputs": _image(network, options)}
    plan = eca_torch.plan_eca(network, where_of(network, where), **options)
    against = {entry.path: reason for entry in plan.entries if (reason := _reason_against(network, entry.path))}
    left = tuple(entry for entry in plan.entries if entry.path not in against)
    if against and not left:
        path, reason = next(iter(against.items()))
        raise NoSiteError(
            f"{type(network).__name__} must have a place that can be gated. Received: {path}, {reason}. "
            "Try where='conv_norm', or words such as 'after SPPF'."
        )
    return replace(plan, entries=left, skipped=(*plan.skipped, *(Skipped(*item) for item in against.items())))


def _reason_against(network: Any, path: str) -> str:
    """Return why a place that the search found is not taken; "" if it is."""
    names = path.split(".")
    above = (network.get_submodule(".".join(names[:i])) for i in range(1, len(names)))
    return MERGED_REASON if any(isinstance(module, RepVGGDW) for module in above) else ""


def _image(network: Any, options: dict[str, Any]) -> Any:
    """Return the user's example inputs, or an image: a run shows the channels of each layer, and that outputs stay."""
    if options.get("example_inputs") is not None:
        return options["example_inputs"]
    side = 160 if isinstance(network, RTDETRDetectionModel) else max(64, 2 * int(max(network.stride)))
    like = next(network.parameters())
    channels = network.yaml.get("channels", 3)
    return torch.zeros(1, channels, side, side, dtype=like.dtype, device=like.device)


def _kept(model: Any, network: Any) -> Any:
    """Record the gates; a `YOLO` goes on from the changed network, in training and in prediction."""
    keep(network)
    if isinstance(model, Model):
        model.ckpt = model.ckpt or {"model": network}  # as their own load: train() then starts from this network
        model.predictor = None
    return model
