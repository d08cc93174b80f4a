"""A `.weights.h5` file, loaded whole into the model that it fits, or refused with every difference.

Keras's own `load_weights` names the first difference alone, and passes over weights that the model has no layer for.
"""

import warnings
from collections.abc import Mapping, Sequence
from os.path import join
from typing import Any, NamedTuple

import h5py  # type: ignore[import-untyped]  # it has none

from eca_multi._files.scratch import scratch_folder
from eca_multi._printable import printable
from eca_multi.surgery.excepted import check_excepted, is_excepted


class _Weight(NamedTuple):
    """What a file tells of a weight: the layer's name ("" in old files), the number in the layer, the shape."""

    layer: str
    number: str
    shape: tuple[int, ...]

    def named(self, path: str) -> str:
        return f"{self.layer}/{self.number}" if self.layer else path


def load_weights_file(model: Any, path: str, except_for: Sequence[str]) -> None:
    """Load a file but for the layers in `except_for`, into a model without ECA.

    Raises:
        ValueError: With each weight that is missing, left over or of another shape.
    """
    with scratch_folder("eca-weights") as folder:
        own = join(folder, "own.weights.h5")
        model.save_weights(own)
        wanted = _weights(own)
    found = _weights(path)
    check_excepted(except_for, [weight.named(place) for place, weight in (*wanted.items(), *found.items())])
    texts = [text for weight, text in _differences(wanted, found) if not is_excepted(weight, except_for)]
    if texts:
        raise ValueError(
            f"state must be the state of the plain network. Received: a file with {len(texts)} differences: "
            f"{printable('; '.join(texts))}. Pass a file of the same network, or name the layers that are to keep "
            "their weights in except_for; nothing was loaded."
        )
    with warnings.catch_warnings():
        if except_for:
            warnings.simplefilter("ignore")  # of the layers that were named
        model.load_weights(path, skip_mismatch=bool(except_for))


def _differences(wanted: Mapping[str, _Weight], found: Mapping[str, _Weight]) -> list[tuple[str, str]]:
    """Return the differences, each with the name of the weight."""
    texts = []
    layers = {weight.layer for weight in wanted.values()}
    for path, weight in wanted.items():
        name = weight.named(path)
        if path not in found:
            texts.append((name, f"{name}: missing"))
        elif found[path].shape != weight.shape:
            texts.append((name, f"{name}: shape {found[path].shape}, the model's {weight.shape}"))
        elif found[path].layer != weight.layer and found[path].layer in layers:
            texts.append((name, f"{name}: stands where the file has {found[path].layer!r}"))
    left = [(weight.named(path), path) for path, weight in found.items() if path not in wanted]
    return texts + [(name, f"{name}: unexpected") for name, _ in left]


def _weights(path: str) -> dict[str, _Weight]:
    weights = {}

    def visit(name: str, node: Any) -> None:
        if (
            isinstance(node, h5py.Dataset)
            and "/vars/" in f"/{name}"
            and not name.startswith(("optimizer/", "metrics/"))
        ):
            layer = str(node.parent.attrs.get("name", ""))
            weights[name] = _Weight(layer, name.rsplit("/", 1)[-1], tuple(node.shape))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return weights
