"""Files that Flax wrote of a network, msgpack and orbax's folders, read without making anything of them but arrays;
and written. linen and nnx share them."""

import json
import logging
import os
import re
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import msgpack  # type: ignore[import-untyped]  # it has none
import numpy as np
from flax import serialization

from eca_multi._files.file import whole_file
from eca_multi._files.folder import check_replaceable, whole_folder
from eca_multi._parsing import parse_json, parsing
from eca_multi.checkpoints import (
    ORBAX,
    Checkpoint,
    CheckpointError,
    Source,
    Stored,
    check_metadata,
    check_total,
    open_source,
    take,
)
from eca_multi.checkpoints.orbax_folder import NOTE

from ._msgpack import Odd, Reader
from ._network_weights import STATISTICS, canonical_name, canonical_view, flatten, native_path, native_view, nest

COLLECTIONS = ("params", "batch_stats")
OURS = "__eca_multi__"  # what is said of the weights, beside them
_DEEPEST = 32  # a TrainState is 8 deep
_FILES = (".bin", ".ckpt", ".h5", ".keras", ".pt", ".pth", ".safetensors", ".tar")
Tree = Mapping[str, Any]


def read_network(path: str | os.PathLike[str], arch: str | None, *, mmap: bool) -> Checkpoint:
    """Read a network's weights from what either framework's state was written to.

    Raises:
        OSError: If it cannot be read.
        CheckpointError: If it is no complete file or folder of Flax, or of no known network.
    """
    with open_tensors(path, mmap=mmap) as (tensors, facts):
        return take(tensors, arch, facts)


@contextmanager
def open_tensors(
    path: str | os.PathLike[str], *, mmap: bool = False
) -> Iterator[tuple[dict[str, Stored], dict[str, str]]]:
    """Give the tensors of a file or folder, each to be read while it is open, and what it says of itself.

    Raises:
        OSError: If it cannot be read.
        CheckpointError: If it is no complete file or folder of Flax, or was written to meanwhile.
    """
    name = os.fspath(path)
    with ExitStack() as opened:
        if os.path.isdir(path):
            with parsing(lambda reason: _incomplete(name, reason), CheckpointError):
                tree, facts, size = _open_folder(Path(path), opened)
                tensors = _tensors(tree)
                check_total(tensors, size, packed=True)
        else:
            source = opened.enter_context(open_source(path, mmap))
            with parsing(lambda reason: _incomplete(name, reason), CheckpointError):
                tree, facts = _read_msgpack(source)
                tensors = _tensors(tree)
                check_total(tensors, source.size)
        yield tensors, facts


def _tensors(tree: Any) -> dict[str, Stored]:
    """The tensors of a network, by canonical name and in torch's layout."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"a {type(tree).__name__}")
    # Of linen's variables, or of a TrainState, which has an optimizer's state as well; nnx's state is the tree itself.
    trees = [_mapping(tree.get(name)) for name in COLLECTIONS] if "params" in tree else [tree]
    tensors: dict[str, Stored] = {}
    for route, leaf in chain.from_iterable(map(flatten, trees)):
        steps = tuple(step for step in route if step != "value")  # orbax writes an nnx variable's as one
        if "rngs" in steps:  # what drops has random streams of its own
            continue
        if isinstance(leaf, Odd):
            raise ValueError(f"{'.'.join(steps)} is {leaf.what}")
        if isinstance(leaf, Stored) and steps:
            tensors[canonical_name(steps)] = leaf.viewed(partial(canonical_view, steps[-1]))
    return tensors


def _mapping(content: Any) -> Tree:
    return content if isinstance(content, Mapping) else {}


def _texts(facts: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in _mapping(facts).items()}


def _read_msgpack(source: Source) -> tuple[Any, dict[str, str]]:
    reader = Reader(source)
    tree = reader.value()
    if reader.stream.tell() != source.size:
        raise ValueError("more or fewer bytes than there are weights")
    facts = tree.pop(OURS, {}) if isinstance(tree, dict) else {}
    return tree, _texts(facts)


def _open_folder(folder: Path, opened: ExitStack) -> tuple[Any, dict[str, str], int]:
    """Find the first tree that lies in a folder: its own, or that of a step or an item; and the folder's bytes."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it has none

    place = min([*folder.glob("_METADATA"), *folder.glob("*/_METADATA"), *folder.glob("*/*/_METADATA")], default=None)
    if place is None:
        raise ValueError("a folder without orbax's _METADATA")
    size = _size(place.parent)
    _check_tree(place)
    source = os.path.abspath(place.parent)
    _check_arrays(source)
    opened.enter_context(_without_chatter())
    reader = opened.enter_context(ocp.PyTreeCheckpointer())
    listed = reader.metadata(source).item_metadata.tree

    @cache
    def restored() -> dict[tuple[str, ...], Any]:
        with (
            parsing(lambda reason: _incomplete(os.fspath(folder), reason), CheckpointError),
            _errors_of_the_system(folder),
        ):
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), listed)  # whatever devices it had
            return dict(flatten(reader.restore(source, restore_args=plain)))

    leaves = dict(flatten(listed))
    # All are restored at once, an optimizer's state as well.
    check_total({str(i): held for i, held in enumerate(map(_held, leaves.values())) if held}, size, packed=True)
    tree = nest((route, _in_folder(leaf, partial(_leaf, restored, route))) for route, leaf in leaves.items())
    note = folder / NOTE
    facts = parse_json(note.read_bytes()) if note.is_file() else {}
    return tree, _texts(facts), size


def _check_tree(place: Path) -> None:
    """orbax and JAX go down a tree by recursion, the latter in a language whose stack ends the process."""
    for entry in parse_json(place.read_bytes())["tree_metadata"].values():
        if len(entry["key_metadata"]) > _DEEPEST:
            raise ValueError("nested too deeply")


def _check_arrays(folder: str) -> None:
    """tensorstore goes down the JSON that describes an array by recursion, in a language whose stack ends the process;
    it lies in files, or in the database that is in files.
    """
    import tensorstore  # orbax's own

    stores: list[dict[str, Any]] = [{"driver": "file", "path": f"{folder}/"}]
    if os.path.exists(os.path.join(folder, "manifest.ocdbt")):
        stores.append({"driver": "ocdbt", "base": stores[0]})
    for spec in stores:
        store = tensorstore.KvStore.open(spec).result()
        for key in store.list().result():
            if key.endswith((b".zarray", b"zarr.json")):
                _check_depth(parse_json(store.read(key).result().value))


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError("nested too deeply")


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for
            raise ValueError(f"{file.name} is no file")
        size += file.stat().st_size
    return size


def _in_folder(leaf: Any, load: Callable[[], np.ndarray]) -> Any:
    """An array of a folder, of which orbax says shape and dtype before it is read."""
    if not isinstance(getattr(leaf, "shape", None), tuple):
        return None
    bfloat16 = np.dtype(leaf.dtype).name == "bfloat16"
    return Stored(leaf.shape, np.dtype("<f4") if bfloat16 else np.dtype(leaf.dtype), load)


def _held(leaf: Any) -> Stored | None:
    """What is in memory while an array of a folder is read: a chunk is decoded whole, also where it is larger."""
    array = _in_folder(leaf, partial(np.empty, 0))
    chunk = getattr(getattr(leaf, "storage", None), "chunk_shape", None)
    if array is None or chunk is None:
        return array
    return max(array, replace(array, shape=tuple(chunk)), key=lambda held: held.nbytes)


def _leaf(restored: Callable[[], dict[tuple[str, ...], Any]], route: tuple[str, ...]) -> np.ndarray:
    array = np.asarray(restored()[route])
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


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
        # In a thread, where no signal interrupts orbax: its own threads would write into what is being removed.
        with (
            _errors_of_the_system(path),
            _without_chatter(),
            ocp.PyTreeCheckpointer() as writer,
            ThreadPoolExecutor(1) as thread,
        ):
            thread.submit(writer.save, folder, arrays).result()
        (folder / NOTE).write_text(json.dumps(texts))


@contextmanager
def _errors_of_the_system(path: str | os.PathLike[str]) -> Iterator[None]:
    """tensorstore makes a ValueError of a full disk; the number of the system's error is in its text."""
    try:
        yield
    except ValueError as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), os.fsdecode(path)) from error


@contextmanager
def _threads_waited_for() -> Iterator[None]:
    """After an error of its own, orbax's threads write on for a moment, and would make anew what is removed."""
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
