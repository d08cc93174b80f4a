"""Build a network with released weights."""

import os

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from eca_multi.checkpoints.find_files import Hub
from eca_multi.checkpoints.find_pretrained import find_pretrained

from . import networks
from .networks import Builder, ECANetwork
from .weights import from_canonical, to_canonical


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    features_only: bool = False,
    global_pool: str | None = "avg",
    drop_path: float = 0.0,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> ECANetwork:
    """Build the network of released weights, and load them.

    The repository's config.json and the weights decide the architecture; the weights decide kernel sizes and the number
    of input channels. `model.preprocessing` says how to prepare images. The model is in
    training mode, as a builder returns it.

    Args:
        name: A repository on the Hugging Face hub ("timm/ecaresnet50d.miil_in1k"), a local folder with the same
            layout (model.safetensors or pytorch_model.bin, and perhaps config.json), or a checkpoint file.
        num_classes: None takes the weights' own; another number makes a new classifier and keeps the rest.
        features_only, global_pool, drop_path, dtype, param_dtype: Options of the builders.
        rngs: Random streams of a new classifier; None is `nnx.Rngs(0)`.
        revision: Branch, tag or commit of the repository; None is its newest state.
        cache_dir: Folder for downloads; None is huggingface_hub's own cache.
        local_files_only: Whether to download nothing, as with HF_HUB_OFFLINE=1.
        token: For private repositories.
        endpoint: Address of another hub.

    Raises:
        ImportError: If `name` is a repository and huggingface_hub is not installed.
        OSError: If there is no such repository, revision or folder, or the hub cannot be reached.
        CheckpointError: If the weights are incomplete, hold what would run code, or are of no known network.
        TypeError, ValueError: If another argument is of another type or out of range.

    Example:
        >>> from pathlib import Path
        >>> from flax import nnx
        >>> from eca_multi.checkpoints import save_file
        >>> from eca_multi.flax.nnx import eca_resnet18, from_pretrained, to_canonical
        >>> Path("mine").mkdir()
        >>> save_file(to_canonical(eca_resnet18(num_classes=10, rngs=nnx.Rngs(0))), "mine/model.safetensors")
        >>> model = from_pretrained("mine", num_classes=3)
        >>> model.num_classes, model.preprocessing.size
        (3, 224)
    """
    hub = Hub(revision, cache_dir, local_files_only, token, endpoint)
    released = find_pretrained(name, hub, num_classes=num_classes, features_only=features_only, global_pool=global_pool)
    build: Builder = getattr(networks, released.name)
    keys = nnx.Rngs(0) if rngs is None else rngs
    model = build(**released.options, drop_path=drop_path, dtype=dtype, param_dtype=param_dtype, rngs=keys)
    from_canonical(model, released.weights(lambda: to_canonical(model)))
    model.preprocessing = released.preprocessing
    return model
