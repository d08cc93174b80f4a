"""Folders of orbax: find the tensors of one, and write one."""

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
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eca_multi._canonical import widened
from eca_multi._files.folder import check_replaceable, whole_folder
from eca_multi._parsing import parse_json
from eca_multi.checkpoints.errors import reading
from eca_multi.checkpoints.orbax import NOTE, ORBAX
from eca_multi.checkpoints.stored import Stored, check_total
from eca_multi.flax._network_weights import flatten, nest

_DEEPEST = 32  # a TrainState is 8 deep
reading_flax = partial(
    reading, ".msgpack file of Flax or folder of orbax", "Copy it again, or write it with flax.serialization.to_bytes."
)


def open_folder(folder: Path, opened: ExitStack) -> tuple[Any, Any, int]:
    """Return the first tree in a folder (its own, or that of a step or an item), the metadata, and the tree's bytes.

    `opened` closes orbax's reader after the arrays are read. The parsers raise anything for a broken folder.
    """
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
        with reading_flax(os.fspath(folder)), _errors_of_the_system(folder):
            # As NumPy arrays, whatever devices they were on.
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), listed)
            return dict(flatten(reader.restore(source, restore_args=plain)))

    leaves = dict(flatten(listed))
    # orbax restores all arrays at once, an optimizer's state included.
    check_total({str(i): held for i, held in enumerate(map(_held, leaves.values())) if held}, size, packed=True)
    tree = nest((route, _in_folder(leaf, partial(_leaf, restored, route))) for route, leaf in leaves.items())
    note = folder / NOTE
    facts = parse_json(note.read_bytes()) if note.is_file() else {}
    return tree, facts, size


def write_folder(tree: Mapping[str, Any], path: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write a tree, whose leaves are functions that return arrays, and metadata to a folder, whole or not at all.

    Raises:
        OSError: If the folder cannot be written, or holds anything else than a checkpoint of orbax.
    """
    import orbax.checkpoint as ocp

    check_replaceable(path, ORBAX)  # before the arrays are loaded
    arrays = nest((route, array()) for route, array in flatten(tree))
    with whole_folder(path, ORBAX) as folder, _threads_waited_for():
        # In a thread, so that no signal interrupts orbax: its threads would go on writing into a folder that we remove.
        with (
            _errors_of_the_system(path),
            _without_chatter(),
            ocp.PyTreeCheckpointer() as writer,
            ThreadPoolExecutor(1) as thread,
        ):
            thread.submit(writer.save, folder, arrays).result()
        (folder / NOTE).write_text(json.dumps(texts))


def _check_tree(place: Path) -> None:
    """Refuse a deep tree: orbax and JAX recurse into it, and JAX's stack overflow ends the process."""
    for entry in parse_json(place.read_bytes())["tree_metadata"].values():
        if len(entry["key_metadata"]) > _DEEPEST:
            raise ValueError("nested too deeply")


def _check_arrays(folder: str) -> None:
    """Refuse deep JSON in the description of an array: tensorstore recurses into it, and its stack overflow ends the
    process. The descriptions lie in files, or in a database in files.
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
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe would wait
            raise ValueError(f"{file.name} is no file")
        size += file.stat().st_size
    return size


def _in_folder(leaf: Any, load: Callable[[], np.ndarray]) -> Any:
    """Return an array of a folder, with orbax's shape and dtype; None if the leaf is no array."""
    if not isinstance(getattr(leaf, "shape", None), tuple):
        return None
    bfloat16 = np.dtype(leaf.dtype).name == "bfloat16"
    return Stored(leaf.shape, np.dtype("<f4") if bfloat16 else np.dtype(leaf.dtype), load)


def _held(leaf: Any) -> Stored | None:
    """Return what memory holds while an array is read: at least one chunk, which is decoded whole."""
    array = _in_folder(leaf, partial(np.empty, 0))
    chunk = getattr(getattr(leaf, "storage", None), "chunk_shape", None)
    if array is None or chunk is None:
        return array
    return max(array, replace(array, shape=tuple(chunk)), key=lambda held: held.nbytes)


def _leaf(restored: Callable[[], dict[tuple[str, ...], Any]], route: tuple[str, ...]) -> np.ndarray:
    return widened(np.asarray(restored()[route]))


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Silence orbax, which warns of each array without a sharding, and logs each error that it also raises."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _errors_of_the_system(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise OSError for a full disk: tensorstore raises ValueError, with the system's error number in its text."""
    try:
        yield
    except ValueError as error:
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fsdecode(path)) from error


@contextmanager
def _threads_waited_for() -> Iterator[None]:
    """Wait after an error: orbax's threads go on for a moment, and would recreate files that we remove."""
    try:
        yield
    except BaseException:
        time.sleep(0.5)
        raise
