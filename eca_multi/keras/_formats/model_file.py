"""Find a network's tensors in a `.keras` or `.weights.h5` file, and the facts beside them."""

import functools

import numpy as np

from eca_multi._parsing import parse_json
from eca_multi.checkpoints.archive import open_archive, place_of
from eca_multi.checkpoints.source import Source
from eca_multi.checkpoints.stored import BFLOAT16, Stored, check_total
from eca_multi.keras._network_weights import VARIABLES, canonical_view, names_in

from .hdf5 import File, Node

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"  # members of a .keras archive
OURS = "eca_multi"  # the attribute of the HDF5 file that holds our metadata, as JSON
_CLASSES = {name.lower(): name for name in VARIABLES}


def read_model_file(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a file, not yet read, and the facts in it; a broken file raises what a parser raises."""
    start = source.read(0, 8)
    if start[:4] == b"PK\x03\x04":
        return _read_archive(source)
    if start == b"\x89HDF\r\n\x1a\n":
        return _read_h5(source, 0, source.size)
    raise ValueError("neither an archive nor HDF5")


def variable_names(key: str, layer: str, count: int) -> list[tuple[str, str]]:
    """Return the canonical name and the kind of each variable of a layer.

    `key` names the layer in a file by its class and a number, "conv2d_3".
    """
    cls, _, number = key.rpartition("_")
    cls = _CLASSES.get((cls if number.isdigit() else key).replace("_", ""), "")
    return names_in(layer, cls, count)


def _read_archive(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    with open_archive(source) as archive:
        if WEIGHTS not in archive.namelist():
            raise ValueError(f"without {WEIGHTS}")
        tensors, facts = _read_h5(source, *place_of(source, archive, archive.getinfo(WEIGHTS)))
        if METADATA in archive.namelist():
            start, end = place_of(source, archive, archive.getinfo(METADATA))
            facts = _texts(source.read(start, end - start)) | facts
    return tensors, facts


def _read_h5(source: Source, start: int, end: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """Find the tensors of an HDF5 file that lies between two places of `source`."""
    file = File(source, start, end)
    top = file.children(file.root)
    if "layers" not in top:
        raise ValueError("without layers: a file of Keras 2, or of a model that has no graph")
    tensors: dict[str, Stored] = {}
    for key, layer in file.children(top["layers"]).items():
        group = file.children(layer).get("vars")
        variables = {} if group is None else file.children(group)
        if group is None or not variables:
            continue
        name = file.attribute(group, "name")
        if name is None:
            raise ValueError(f"layers/{key} has no name: written by an older Keras")
        for i, (tensor, kind) in enumerate(variable_names(key, name, len(variables))):
            if str(i) not in variables:
                raise ValueError(f"layers/{key} has no variable {i}")
            if tensor in tensors:
                raise ValueError(f"two layers hold {tensor}")
            stored = _stored(file, variables[str(i)], end)
            tensors[tensor] = stored.viewed(functools.partial(canonical_view, kind))
    check_total(tensors, source.size)
    return tensors, _texts(file.attribute(file.root, OURS) or "{}")


def _stored(file: File, node: Node, end: int) -> Stored:
    dataset = file.dataset(node)
    bfloat16 = file.attribute(node, "dtype") == BFLOAT16
    if dataset.dtype == "opaque" and not bfloat16:
        raise ValueError(f"{node.path} is no array of numbers")
    tensor = file.source.tensor(BFLOAT16 if bfloat16 else dataset.dtype, dataset.shape, dataset.place, end)
    if tensor.size * (2 if bfloat16 else np.dtype(dataset.dtype).itemsize) != dataset.nbytes:
        raise ValueError(f"{node.path} of shape {dataset.shape} stores {dataset.nbytes} bytes")
    return tensor


def _texts(text: str | bytes) -> dict[str, str]:
    content = parse_json(text)
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
