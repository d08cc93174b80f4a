"""Files that Flax wrote of a network, msgpack and orbax's folders, read without making anything of them but arrays;
and written. linen and nnx share them."""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import msgpack  # type: ignore[import-untyped]  # it has none
import numpy as np
from flax import serialization

from eca_multi._checkpoints import ORBAX, Checkpoint, CheckpointError, check_metadata, take
from eca_multi._checkpoints.orbax_folder import NOTE
from eca_multi._files import whole_file
from eca_multi._folders import check_replaceable, whole_folder

from ._network_weights import STATISTICS, canonical_name, canonical_view, flatten, native_path, native_view, nest

COLLECTIONS = ("params", "batch_stats")
OURS = "__eca_multi__"  # what is said of the weights, beside them
_FILES = (".bin", ".ckpt", ".h5", ".keras", ".pt", ".pth", ".safetensors", ".tar")
Tree = Mapping[str, Any]


def read_network(path: str | os.PathLike[str], arch: str | None) -> Checkpoint:
    """Read a network's weights from what either framework's state was written to.

    Raises:
        OSError: If it cannot be read.
        CheckpointError: If it is no complete file or folder of Flax, or of no known network.
    """
    name = os.fspath(path)
    try:
        tree, facts = _read_folder(Path(path)) if os.path.isdir(path) else _read_msgpack(path)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of the many libraries under orbax, each has its own
        raise _incomplete(name, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(tree, Mapping):
        raise _incomplete(name, f"a {type(tree).__name__}")
    # Of linen's variables, or of a TrainState, which has an optimizer's state as well; nnx's state is the tree itself.
    trees = [_mapping(tree.get(name)) for name in COLLECTIONS] if "params" in tree else [tree]
    arrays = {}
    for route, leaf in chain.from_iterable(map(flatten, trees)):
        steps = tuple(step for step in route if step != "value")  # orbax writes an nnx variable's as one
        if "rngs" not in steps and hasattr(leaf, "dtype"):  # what drops has random streams of its own
            arrays[canonical_name(steps)] = canonical_view(steps[-1], np.asarray(leaf))
    return take(arrays, arch, facts)


def _mapping(content: Any) -> Tree:
    return content if isinstance(content, Mapping) else {}


def _read_msgpack(path: str | os.PathLike[str]) -> tuple[Any, dict[str, str]]:
    with open(path, "rb") as file:  # piece by piece: the whole of it beside its arrays would be twice the file
        hook = serialization._msgpack_ext_unpack  # arrays and numbers; none holds code
        unpacker = msgpack.Unpacker(file, ext_hook=hook, raw=False, strict_map_key=False, max_buffer_size=0)
        tree = unpacker.unpack()
        if unpacker.tell() != os.path.getsize(path):
            raise ValueError("more bytes than there are weights")
    facts = tree.pop(OURS, {}) if isinstance(tree, dict) else {}
    return tree, {str(key): str(value) for key, value in _mapping(facts).items()}


def _read_folder(folder: Path) -> tuple[Any, dict[str, str]]:
    """Read the first tree that lies in a folder: its own, or that of a step or an item."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it has none

    place = min([*folder.glob("_METADATA"), *folder.glob("*/_METADATA"), *folder.glob("*/*/_METADATA")], default=None)
    if place is None:
        raise ValueError("a folder without orbax's _METADATA")
    with _without_chatter(), ocp.PyTreeCheckpointer() as reader:
        source = os.path.abspath(place.parent)
        listed = reader.metadata(source).item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), listed)  # on whatever devices it was
        tree = reader.restore(source, restore_args=plain)
    note = folder / NOTE
    facts = json.loads(note.read_bytes()) if note.is_file() else {}
    return tree, {str(key): str(value) for key, value in _mapping(facts).items()}


@contextmanager
def _without_chatter() -> Iterator[None]:
    """orbax warns of each array that is read without a sharding, and logs each error that it raises as well."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def write_network(
    checkpoint: Checkpoint, path: str | os.PathLike[str], metadata: Mapping[str, str] | None, *, collections: bool
) -> None:
    """Write a network's weights, whole or not at all: to a `.msgpack` file, else to a folder by orbax.

    Args:
        collections: Whether parameters and statistics are apart, as linen has them.

    Raises:
        TypeError, ValueError: If the path has the suffix of another format, or the metadata are no strings.
        OSError: If the folder is missing or cannot be written to, or the disk is full.
    """
    name = os.fsdecode(path)
    texts = check_metadata(metadata)
    tree = _tree(checkpoint, collections)
    if name.endswith(".msgpack"):
        with whole_file(path) as file:
            for part in _packed({**tree, OURS: texts}):
                file.write(part)
        return
    if name.endswith(_FILES) or os.path.isfile(path):
        raise ValueError(f"path must end in .msgpack, or name a folder. Received: {name!r}. Rename it.")
    _write_folder(tree, path, texts)


class _Place:
    """Where a tensor is in a checkpoint: its array is taken when it is written, one at a time."""

    def __init__(self, weights: Mapping[str, np.ndarray], name: str, leaf: str) -> None:
        self.weights, self.name, self.leaf = weights, name, leaf

    def array(self) -> np.ndarray:
        return np.ascontiguousarray(native_view(self.leaf, self.weights[self.name]))


def _tree(checkpoint: Checkpoint, collections: bool) -> dict[str, Any]:
    found = checkpoint.found
    places = []
    for name, tensor in found.tensors.items():
        path = native_path(found.network, tensor)
        start = (COLLECTIONS[path[-1] in STATISTICS],) if collections else ()
        places.append(((*start, *path), _Place(checkpoint.weights, name, path[-1])))
    return nest(places)


def _packed(tree: Tree) -> Iterator[bytes]:
    """The bytes of `flax.serialization.to_bytes`, of one array at a time."""
    packer = msgpack.Packer()
    yield packer.pack_map_header(len(tree))
    for name, inner in tree.items():
        yield packer.pack(name)
        if isinstance(inner, Mapping):
            yield from _packed(inner)
        elif isinstance(inner, _Place):
            yield serialization.msgpack_serialize(inner.array())
        else:
            yield packer.pack(inner)


def _write_folder(tree: Tree, path: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    import orbax.checkpoint as ocp

    check_replaceable(path, ORBAX)  # before the arrays are taken
    arrays = nest((route, place.array()) for route, place in flatten(tree))
    with whole_folder(path, ORBAX) as folder, _threads_waited_for():
        with _without_chatter(), ocp.PyTreeCheckpointer() as writer:
            writer.save(folder, arrays)
        (folder / NOTE).write_text(json.dumps(texts))


@contextmanager
def _threads_waited_for() -> Iterator[None]:
    """After an error orbax's threads write on for a moment, and would make anew what is removed."""
    try:
        yield
    except BaseException:
        time.sleep(0.5)
        raise


def _incomplete(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"path must name a complete .msgpack file of Flax or folder of orbax. Received: {name!r} ({reason}). "
        "Copy it again, or write it with flax.serialization.to_bytes."
    )
