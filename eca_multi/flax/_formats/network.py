"""A network's tensors in a msgpack file or a folder of orbax: open them, and write them. linen and nnx share this."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi._files.file import whole_file
from eca_multi.checkpoints.source import open_source
from eca_multi.checkpoints.stored import Stored, check_total
from eca_multi.checkpoints.take import Checkpoint
from eca_multi.checkpoints.write import check_metadata, check_suffix
from eca_multi.flax._network_weights import (
    STATISTICS,
    canonical_name,
    canonical_view,
    flatten,
    native_path,
    native_view,
    nest,
)

from .msgpack import Odd, pack, read_tree
from .orbax import open_folder, reading_flax, write_folder

COLLECTIONS = ("params", "batch_stats")
OURS = "__eca_multi__"  # the key of our metadata in a msgpack file
_OTHER_FORMATS = (".bin", ".ckpt", ".h5", ".keras", ".pt", ".pth", ".safetensors", ".tar")


@contextmanager
def open_network(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give the tensors of a file or folder, which `load` reads while the file is open, and the facts beside them.

    Raises:
        OSError: If the file or folder cannot be read.
        CheckpointError: If it is no complete file or folder of Flax, or was written to meanwhile.
    """
    is_folder = os.path.isdir(path)
    with ExitStack() as opened:
        source = None if is_folder else opened.enter_context(open_source(path, mmap))
        with reading_flax(os.fspath(path)):
            if source is None:
                tree, facts, size = open_folder(Path(path), opened)
            else:
                tree, size = read_tree(source), source.size
                facts = tree.pop(OURS, {}) if isinstance(tree, dict) else {}
            tensors = _tensors(tree)
            check_total(tensors, size, packed=is_folder)
        yield tensors, {str(key): str(value) for key, value in _mapping(facts).items()}


def write_network(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None, *, collections: bool
) -> None:
    """Carry out `write_checkpoint`; with `collections`, parameters and statistics are apart, as in linen."""
    name = os.fsdecode(path)
    texts = check_metadata(metadata)
    tree = _tree(checkpoint, collections)
    if not name.endswith(_OTHER_FORMATS) and not name.endswith(".msgpack") and not os.path.isfile(path):
        write_folder(tree, path, texts)
        return
    check_suffix(path, (".msgpack",), ", or name a folder")
    with whole_file(path) as file:
        for piece in pack({**tree, OURS: texts}):
            file.write(piece)


def _tensors(tree: Any) -> dict[str, Stored]:
    """Return the tensors of a network, by canonical name and in torch's layout."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"a {type(tree).__name__}")
    # linen's variables, and a TrainState with its optimizer's state, have collections; nnx's state is one tree.
    trees = [_mapping(tree.get(name)) for name in COLLECTIONS] if "params" in tree else [tree]
    tensors: dict[str, Stored] = {}
    for route, leaf in chain.from_iterable(map(flatten, trees)):
        steps = tuple(step for step in route if step != "value")  # orbax adds this step below each nnx variable
        if "rngs" in steps:  # random streams of dropout and drop path
            continue
        if isinstance(leaf, Odd):
            raise ValueError(f"{'.'.join(steps)} is {leaf.what}")
        if isinstance(leaf, Stored) and steps:
            tensors[canonical_name(steps)] = leaf.viewed(partial(canonical_view, steps[-1]))
    return tensors


def _mapping(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}


def _tree(checkpoint: Checkpoint, collections: bool) -> dict[str, Any]:
    """Return Flax's tree of a network; each leaf is a function that takes the array when it is written."""
    network, weights = checkpoint.found.network, checkpoint.weights
    leaves = []
    for name, tensor in checkpoint.found.tensors.items():
        path = native_path(network, tensor)
        collection = (COLLECTIONS[path[-1] in STATISTICS],) if collections else ()
        leaves.append(((*collection, *path), partial(_array, weights, name, path[-1])))
    return nest(leaves)


def _array(weights: Mapping[str, np.ndarray], name: str, leaf: str) -> np.ndarray:
    return np.ascontiguousarray(native_view(leaf, weights[name]))
