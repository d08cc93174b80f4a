"""Build a network with released weights."""

import os
from typing import Any

import jax
import jax.numpy as jnp
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
    key: jax.Array | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> tuple[ECANetwork, dict[str, Any]]:
    """Build the network of released weights, and load them.

    The repository's config.json and the weights decide the architecture; the weights decide kernel sizes and the number
    of input channels. `model.preprocessing` says how to prepare images.

    Args:
        name: A repository on the Hugging Face hub ("timm/ecaresnet50d.miil_in1k"), a local folder with the same
            layout (model.safetensors or pytorch_model.bin, and perhaps config.json), or a checkpoint file.
        num_classes: None takes the weights' own; another number makes a new classifier and keeps the rest.
        features_only, global_pool, drop_path, dtype, param_dtype: Options of the builders.
        key: Random key of a new classifier; None is `jax.random.key(0)`.
        revision: Branch, tag or commit of the repository; None is its newest state.
        cache_dir: Folder for downloads; None is huggingface_hub's own cache.
        local_files_only: Whether to download nothing, as with HF_HUB_OFFLINE=1.
        token: For private repositories.
        endpoint: Address of another hub.

    Returns:
        The module and its variables, {"params": ..., "batch_stats": ...}.

    Raises:
        ImportError: If `name` is a repository and huggingface_hub is not installed.
        OSError: If there is no such repository, revision or folder, or the hub cannot be reached.
        CheckpointError: If the weights are incomplete, hold what would run code, or are of no known network.
        TypeError, ValueError: If another argument is of another type or out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pathlib import Path
        >>> from eca_multi.checkpoints import save_file
        >>> from eca_multi.flax.linen import eca_resnet18, from_pretrained, to_canonical
        >>> variables = eca_resnet18(num_classes=10).init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
        >>> Path("mine").mkdir()
        >>> save_file(to_canonical(variables), "mine/model.safetensors")
        >>> model, variables = from_pretrained("mine")
        >>> model.num_classes, model.preprocessing.size
        (10, 224)
    """
    hub = Hub(revision, cache_dir, local_files_only, token, endpoint)
    released = find_pretrained(name, hub, num_classes=num_classes, features_only=features_only, global_pool=global_pool)
    build: Builder = getattr(networks, released.name)
    model = build(**released.options, drop_path=drop_path, dtype=dtype, param_dtype=param_dtype)
    model = model.clone(preprocessing=released.preprocessing)
    x = jnp.zeros((1, *[32] * model.dims, model.in_channels))
    first = jax.random.key(0) if key is None else key
    shapes = jax.eval_shape(model.init, first, x)
    return model, from_canonical(shapes, released.weights(lambda: to_canonical(model.init(first, x))))
