"""The verb that takes a checkpoint of the reference to the port: arrays by the port's names, and a file."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from eca_multi._files.file import write_atomically
from eca_multi._files.scratch import scratch_folder
from eca_multi.checkpoints.safetensors import pack_safetensors, unpack_safetensors

from .define.axes import SpecError
from .define.maps import WeightMap
from .define.structures import host
from .models import Model, model_of
from .models.mapping import read_map

Arrays = dict[str, np.ndarray]


def port_weights(
    map: WeightMap | Mapping[str, str | None],  # the public name, as in assert_ported
    state: Any,
    port: Any,
    file: str | os.PathLike[str] | None = None,
) -> Arrays:
    """Carry the weights of a reference to the names, axes and dtypes of a port, and write the port's checkpoint.

    What was written is read back and must be equal bit for bit. That the port then computes what the reference does is
    for `assert_ported` to show.

    Args:
        map: Native name of the port -> text about the reference's weights, as `propose_map` returns.
        state: The reference's weights by name: a state dict, or any mapping of arrays; or the reference itself.
        port: The port. It is not changed. What the map leaves out keeps the port's own values.
        file: Where to write: a `.safetensors` file, by the port's names; `.weights.h5` for a Keras model; `.msgpack`,
            or a folder by orbax, for Flax. None writes nothing.

    Returns:
        All weights of the port, by name.

    Raises:
        SpecError: If the map does not fit the names and shapes, the state lacks a weight of the map, or the file is
            none that the port's framework reads.
        OSError: If the file cannot be written.

    Example:
        >>> import numpy as np, torch
        >>> from eca_multi import parity
        >>> layer = torch.nn.Linear(4, 3)
        >>> kernel, bias = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
        >>> port = (lambda p, x: x @ p["kernel"] + p["bias"], {"kernel": kernel, "bias": bias})
        >>> entries = {"kernel": "weight: o i -> i o", "bias": "bias"}
        >>> parity.port_weights(entries, layer.state_dict(), port, "port.safetensors")["kernel"].shape
        (4, 3)
    """
    model = model_of(port)
    given, shared = _arrays(state)
    own = model.weights()
    weights = map if isinstance(map, WeightMap) else read_map(map, given, shared, model)
    if lacking := [name for name in weights.shapes if name not in given]:
        raise SpecError(f"the state must hold all weights of the map. Received: no {lacking[0]!r}.")
    carried = {name: array.astype(own[name].dtype) for name, array in weights.to_native(given).items()}
    arrays = {**own, **carried}
    if file is not None:
        _write(model.with_weights(carried), arrays, Path(file))
    return arrays


def _arrays(state: Any) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays by name, and the names that are other names of one array with its first name."""
    if not isinstance(state, Mapping):
        model = model_of(state)
        return model.weights(), model.shared
    if inner := [name for name, value in state.items() if isinstance(value, Mapping)]:
        raise SpecError(
            f"the state must hold arrays by name. Received: a dict under {inner[0]!r}. Give state[{inner[0]!r}] if the "
            "weights are in it."
        )
    arrays = {str(name): host(array) for name, array in state.items()}
    first: dict[object, str] = {}
    places = {n: first.setdefault((a.ctypes.data, a.shape, a.strides, a.size or n), n) for n, a in arrays.items()}
    return arrays, {name: other for name, other in places.items() if name != other}


def _write(model: Model, arrays: Arrays, file: Path) -> None:
    write = next((write for suffix, write in _WRITERS.items() if file.name.endswith(suffix)), None)
    if write is None and not file.suffix:
        write = _orbax
    if write is None:
        raise SpecError(
            f"the file must be {', '.join(_WRITERS)} or a folder without a suffix. Received: {file.name!r}. Rename it."
        )
    if not (folder := file.absolute().parent).is_dir():
        raise SpecError(
            f"the file must be in a folder that exists. Received: {file}, and no {folder}. Make the folder."
        )
    write(model, arrays, file)


def _safetensors(model: Model, arrays: Arrays, file: Path) -> None:
    data = b"".join(pack_safetensors(arrays))
    _check(unpack_safetensors(data, file.name), arrays, file)
    write_atomically(file, data)


def _keras(model: Model, arrays: Arrays, file: Path) -> None:
    layer: Any = getattr(model, "layer", None)
    if not hasattr(layer, "save_weights"):
        raise SpecError(f"a .weights.h5 file must be of a Keras model. Received: {model.name}. Take .safetensors.")
    with scratch_folder(parent=file.parent) as folder:
        new = folder / file.name
        layer.save_weights(new)
        fresh = model.with_weights({name: np.zeros_like(array) for name, array in arrays.items()})
        fresh.layer.load_weights(new)  # type: ignore[attr-defined]  # a model of Keras, as just seen
        _check(fresh.weights(), arrays, file)
        write_atomically(file, new.read_bytes())


def _msgpack(model: Model, arrays: Arrays, file: Path) -> None:
    serialization = import_module("flax.serialization")
    data = serialization.msgpack_serialize(_tree(model, arrays))
    _check(_flat(serialization.msgpack_restore(data), _separator(model)), arrays, file)
    write_atomically(file, data)


def _lazily(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array


def _orbax(model: Model, arrays: Arrays, file: Path) -> None:
    import_module("eca_multi.flax._formats.orbax").write_folder(_tree(model, arrays, _lazily), file, {})
    reader = import_module("orbax.checkpoint").PyTreeCheckpointer()
    _check(_flat(reader.restore(file.absolute()), _separator(model)), arrays, file)


_WRITERS: dict[str, Callable[[Model, Arrays, Path], None]] = {
    ".safetensors": _safetensors,
    ".weights.h5": _keras,
    ".msgpack": _msgpack,
}


def _separator(model: Model) -> str:
    if model.framework not in ("linen", "nnx", "jax", "numpy"):
        raise SpecError(f"a file of Flax must be of a model of Flax or JAX. Received: {model.name}.")
    return "." if model.framework == "nnx" else "/"


def _tree(model: Model, arrays: Arrays, leaf: Callable[[np.ndarray], Any] = np.asarray) -> dict[str, Any]:
    """Return the arrays as dicts in dicts, as Flax and orbax keep them."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *levels, name = path.split(_separator(model))
        place = tree
        for level in levels:
            place = place.setdefault(level, {})
        place[name] = leaf(array)
    return tree


def _flat(tree: Mapping[str, Any], separator: str, before: str = "") -> Arrays:
    flat: Arrays = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, separator, f"{before}{name}{separator}")
            if isinstance(value, Mapping)
            else {f"{before}{name}": np.asarray(value)}
        )
    return flat


def _check(back: Mapping[str, np.ndarray], arrays: Arrays, file: Path) -> None:
    """Refuse a file that holds other values than those that were to be written."""
    for name, array in arrays.items():
        if name not in back or np.asarray(back[name]).tobytes() != np.ascontiguousarray(array).tobytes():
            raise SpecError(
                f"{file.name} must hold {name!r} bit for bit. It does not: the format or the layer changes it."
            )
