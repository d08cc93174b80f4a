"""Where a network's canonical tensors are in Flax's trees, for linen and nnx; no module of either is imported here.

A tensor's path is that of its module in the original code: a block is one module, and "." is "_" in its name and in
those within it: `layer1.0.downsample.0.weight` is ("layer1_0", "downsample_0", "kernel").
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from eca_multi._canonical import Weights, check_weights, narrowest, widened
from eca_multi.checkpoints.identify import Identified, identify
from eca_multi.networks import Network, Tensor

Path = tuple[str, ...]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
STEMS = ("conv1", "conv1_0", "features_0_0")  # the first module of each network
STATISTICS = ("mean", "var")


def child(parent: str, path: str) -> str:
    """Return the name of the module `path` within the module `parent`, "" for the network."""
    return (path[len(parent) + 1 :] if parent else path).replace(".", "_")


def canonical_name(path: Path) -> str:
    """Return the canonical name of the leaf at a path; for a leaf that no network has, a name that no network has."""
    *modules, leaf = map(str, path)
    return ".".join([*modules, LEAVES.get(leaf, leaf)]).replace("_", ".").replace("running.", "running_")


def canonical_view(leaf: str, array: Any) -> Any:
    """Return a kernel (*S, in, out) in torch's layout, (out, in, *S); an ECA's (k, 1, 1) as (k,). A view."""
    if leaf != "kernel" or array.ndim < 2:
        return array
    if array.ndim == 3 and array.shape[1:] == (1, 1):
        return array.reshape(-1)
    return np.moveaxis(array, (-1, -2), (0, 1))


def native_view(leaf: str, array: np.ndarray) -> np.ndarray:
    """Return an array of torch's layout in Flax's; a view."""
    if leaf != "kernel":
        return array
    return array.reshape(-1, 1, 1) if array.ndim == 1 else np.moveaxis(array, (0, 1), (-1, -2))


def flatten(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of nested mappings, with their paths."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, (*path, str(name)))
        else:
            yield (*path, str(name)), value


def nest(leaves: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """Return the nested mappings of the leaves: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for (*parents, name), value in leaves:
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def identify_network(leaves: Mapping[Path, Any]) -> Identified:
    """Find the network of these arrays, or of these shapes; raise CheckpointError if no network fits."""
    views = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in leaves.items()}
    return identify({canonical_name(path): canonical_view(path[-1], view).shape for path, view in views.items()})


def network_to_canonical(leaves: Mapping[Path, Any]) -> Weights:
    """Return a network's arrays as a canonical dict of NumPy arrays, a copy; bfloat16 is widened to float32."""
    network = identify_network(leaves)
    arrays = {
        canonical_name(path): canonical_view(path[-1], widened(np.asarray(leaf))) for path, leaf in leaves.items()
    }
    return {name: np.array(arrays[name].reshape(tensor.shape)) for name, tensor in network.tensors.items()}


def network_from_canonical(leaves: Mapping[Path, Any], weights: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
    """Check canonical weights, and return them by path, in Flax's layout and each leaf's dtype."""
    shapes = {name: tensor.shape for name, tensor in identify_network(leaves).tensors.items()}
    dtypes = {str(leaf.dtype) for leaf in leaves.values()}
    arrays = check_weights(weights, shapes, narrowest(dtypes))
    return {
        path: native_view(path[-1], arrays[canonical_name(path)]).astype(leaf.dtype) for path, leaf in leaves.items()
    }


_LEAF_OF = {
    **dict.fromkeys(("conv", "depthwise", "dense", "eca"), "kernel"),
    **dict.fromkeys(("norm_bias", "dense_bias"), "bias"),
    "norm_scale": "scale",
    "norm_mean": "mean",
    "norm_var": "var",
}


def native_path(network: Network, tensor: Tensor) -> Path:
    block = next((b.path for b in network.blocks if tensor.module.startswith(f"{b.path}.")), "")
    modules = (child("", block), child(block, tensor.module)) if block else (child("", tensor.module),)
    return (*modules, _LEAF_OF[tensor.kind])
