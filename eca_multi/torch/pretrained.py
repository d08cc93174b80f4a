"""Networks with released weights."""

import os

import torch

from eca_multi.checkpoints.find_files import Hub
from eca_multi.checkpoints.find_pretrained import find_pretrained

from . import networks
from ._network_weights import network_from_canonical, network_to_canonical
from .networks import Builder, ECANetwork


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    features_only: bool = False,
    global_pool: str | None = "avg",
    drop_path: float = 0.0,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> ECANetwork:
    """Build the network that released weights are of, and load them.

    The architecture is read from the repository's config.json and from the weights, kernel sizes and the number of
    input channels from the weights. `model.preprocessing` says how images are to be prepared. The model is in
    training mode, as a builder returns it.

    Args:
        name: A repository on the Hugging Face hub ("timm/ecaresnet50d.miil_in1k"), a local folder that is laid out
            like one (model.safetensors or pytorch_model.bin, and perhaps config.json), or a checkpoint file.
        num_classes: None takes the weights' own; for another number the classifier is new and the rest is kept.
        features_only, global_pool, drop_path, device, dtype: As the builders have them.
        revision: Branch, tag or commit of the repository; None is its newest state.
        cache_dir: Where downloads are kept; None is huggingface_hub's own cache.
        local_files_only: Whether to download nothing, as with HF_HUB_OFFLINE=1.
        token: For private repositories.
        endpoint: Address of another hub.

    Raises:
        ImportError: If a repository is asked for and huggingface_hub is not installed.
        OSError: If there is no such repository, revision or folder, or the hub cannot be reached.
        CheckpointError: If the weights are incomplete, hold what would run code, or are of no known network.
        TypeError, ValueError: If another argument is of another type or out of range.

    Example:
        >>> from pathlib import Path
        >>> from eca_multi.checkpoints import save_file
        >>> from eca_multi.torch import eca_resnet18, from_pretrained, to_canonical
        >>> Path("mine").mkdir()
        >>> save_file(to_canonical(eca_resnet18(num_classes=10)), "mine/model.safetensors")
        >>> model = from_pretrained("mine", num_classes=3)
        >>> model.num_classes, model.preprocessing.size
        (3, 224)
    """
    hub = Hub(revision, cache_dir, local_files_only, token, endpoint)
    found = find_pretrained(name, hub, num_classes=num_classes, features_only=features_only, global_pool=global_pool)
    build: Builder = getattr(networks, found.name)
    model = build(**found.options, drop_path=drop_path, device=device, dtype=dtype)
    network_from_canonical(model, found.weights(lambda: network_to_canonical(model)))
    model.preprocessing = found.preprocessing
    return model
