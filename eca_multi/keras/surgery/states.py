"""The weights of a Keras network and those of its ECAs, apart: two states, for two checkpoints."""

import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import keras
import numpy as np

from eca_multi._states import check_fits, converted
from eca_multi.keras._owned import assign, owned, values
from eca_multi.keras.layers import ECA
from eca_multi.surgery.errors import lost_blocks, no_eca
from eca_multi.surgery.excepted import check_except_for, check_excepted, is_excepted

from ._find.check import check_model
from ._find.graph import Network
from ._find.kinds import is_eca, is_model, kind, parts
from ._wrap.edits import Edits
from ._wrap.installed import InsertedECA, installed_layers
from ._wrap.rebuild import rebuilt
from ._wrap.weights_file import load_weights_file

UNNAMED = re.compile(r"^variable_\d+$")  # Keras counts variables without a name through the whole process
State = dict[str, np.ndarray]


def eca_parameters(model: Any) -> list[Any]:
    """Return the kernels of all ECA layers of a model, as Keras variables.

    Args:
        model: Functional or Sequential.

    Raises:
        NoSiteError: If there is none. UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import eca_parameters, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> len(eca_parameters(insert_eca(model, "conv")))
        1
    """
    check_model(model)
    return [variable for layer in _layers(model, ECA) for variable in layer.weights]


def freeze_except_eca(model: Any) -> Any:
    """Set the model's trainable flags in place, so that its ECA layers alone are trained; return the model.

    A frozen BatchNormalization uses its moving statistics in training too and does not change them. Compile after it.

    Args:
        model: Functional or Sequential, with ECA.

    Raises:
        NoSiteError: If there is no ECA, so that nothing would be trained. UnsupportedModelError: If the model has no
            graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import freeze_except_eca, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> [tuple(v.shape) for v in freeze_except_eca(insert_eca(model, "conv")).trainable_variables]
        [(3, 1, 1)]
    """
    kernels = eca_parameters(model)
    model.trainable = True
    for layer in Network(model).leaves():
        if isinstance(layer, keras.Layer):
            layer.trainable = is_eca(layer)
    for kernel in kernels:
        kernel.trainable = True
    return model


def base_state(model: Any) -> State:
    """Return a copy of all weights but those of inserted ECA, {"layer/variable": array}.

    The names are those of a model without ECA, so that states go both ways.

    Args:
        model: Functional or Sequential, with or without ECA.

    Raises:
        UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import base_state, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> sorted(base_state(insert_eca(model, "conv")))
        ['conv/bias', 'conv/kernel']
    """
    check_model(model)
    return {key: values(variable) for key, variable in _variables(model, of_eca=False)}


def load_base_state(
    model: Any, state: Mapping[str, Any] | str | PathLike[str], *, except_for: Sequence[str] = ()
) -> Any:
    """Load weights of the network without ECA into a model with it, in place; its ECAs go back to the identity.

    Keras's own `load_weights` cannot: `.weights.h5` numbers layers in an order that insertion changes, and
    skip_mismatch=True then puts wrong weights into layers of the same shape, without a word about these.

    Args:
        model: With ECA from `insert_eca` (or without).
        state: What `base_state` returned, or a `.weights.h5` or `.keras` file of the network without ECA. Weights of
            SE blocks that ECA replaced are passed over.
        except_for: Paths of layers that keep the weights they have, ["head"] where the state has another one. What the
            state holds for them is passed over.

    Returns:
        The model. ECAs whose gate is not 2*sigmoid have no identity and keep their kernels.

    Raises:
        ValueError: If weights are missing, left over or of another shape, hold NaN or infinity where the model does
            not, or numbers out of range; or if a path of except_for is in neither.
        TypeError: If they are no arrays with values, or not of the model's kind; or if except_for is no list of texts.
            After an error the model is unchanged; the model shares no memory with `state`.
        UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import base_state, insert_eca, load_base_state
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> with_eca = load_base_state(insert_eca(model, "conv"), base_state(model))
    """
    check_model(model)
    check_except_for(except_for)
    if isinstance(state, Mapping):
        check_excepted(except_for, [*state, *(key for key, _ in _variables(model, of_eca=False))])
    else:
        if not isinstance(state, str | PathLike):
            raise TypeError(
                "state must be a mapping of keys to arrays or the path of a file. "
                f"Received: {type(state).__name__}. Pass what base_state returned."
            )
        state = _from_file(model, fspath(state), except_for)
    inserted = [layer for layer in Network(model).leaves() if isinstance(layer, InsertedECA)]
    wanted = {key for key, _ in _variables(model, of_eca=False)}
    dropped = {name for layer in inserted for name in layer.dropped}
    kept = {k: v for k, v in state.items() if k in wanted or str(k).split("/")[-2:][0] not in dropped}
    variables, new = _fitting(model, kept, of_eca=False, except_for=except_for)
    for number, layer in enumerate(inserted):
        if layer.gate == "2sigmoid":
            variables[f"kernel {number}"] = layer.kernel
            new[f"kernel {number}"] = np.zeros_like(values(layer.kernel))
    return assign(model, variables, new, lambda: _finalize(model))


def eca_state(model: Any) -> State:
    """Return a copy of the kernels of inserted ECA, {"<site>_eca/kernel": array}.

    Args:
        model: Functional or Sequential.

    Raises:
        NoSiteError: If there is none. UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import eca_state, insert_eca
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> {key: value.shape for key, value in eca_state(insert_eca(model, "conv")).items()}
        {'conv_eca/kernel': (3, 1, 1)}
    """
    check_model(model)
    _layers(model, InsertedECA)
    return {key: values(variable) for key, variable in _variables(model, of_eca=True)}


def load_eca_state(model: Any, state: Mapping[str, Any]) -> Any:
    """Load what `eca_state` returned, in place; return the model.

    Args:
        model: With the same ECAs.
        state: Their kernels.

    Raises:
        NoSiteError: If the model has no inserted ECA. TypeError, ValueError: As `load_base_state`; nothing is changed.
        UnsupportedModelError: If the model has no graph to read.

    Example:
        >>> import keras
        >>> from eca_multi.keras import eca_state, insert_eca, load_eca_state
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv")])
        >>> trained = insert_eca(model, "conv")
        >>> again = load_eca_state(insert_eca(model, "conv"), eca_state(trained))
    """
    check_model(model)
    _layers(model, InsertedECA)
    return assign(model, *_fitting(model, state, of_eca=True))


def _layers(model: Any, cls: type) -> list[Any]:
    """Return the layers of a class, one at least."""
    layers = [layer for layer in Network(model).leaves() if isinstance(layer, cls)]
    if not layers:
        raise no_eca(kind(model))
    return layers


def _variables(model: Any, *, of_eca: bool) -> Iterator[tuple[str, Any]]:
    """Yield weights and their keys, in the network's order.

    The weights of a layer with layers inside are numbered: Keras counts the names of inner layers through the process.
    """
    network = Network(model)
    for layer in network.leaves():
        if not isinstance(layer, keras.Layer) or is_model(layer) or isinstance(layer, InsertedECA) != of_eca:
            continue
        weights = list(layer.weights)
        names = [UNNAMED.sub("variable", weight.name) for weight in weights]
        if len(parts(layer)) > 1 or len(set(names)) < len(names):
            names = [f"{number}/{name}" for number, name in enumerate(names)]
        for name, weight in zip(names, weights, strict=True):
            yield f"{network.path(layer)}/{name}", weight


def _fitting(model: Any, state: Any, *, of_eca: bool, except_for: Sequence[str] = ()) -> tuple[dict[str, Any], State]:
    """Return the model's variables by key, and checked copies of the arrays in the state."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a mapping of keys to arrays. Received: {type(state).__name__}. "
            f"Pass what {'eca_state' if of_eca else 'base_state'} returned."
        )
    variables = dict(_variables(model, of_eca=of_eca))
    variables = {key: variable for key, variable in variables.items() if not is_excepted(key, except_for)}
    arrays = {key: state[key] for key in state if not is_excepted(key, except_for)}  # each is read once
    check_fits(variables, arrays, of_eca)
    return variables, converted({key: (arrays[key], variable) for key, variable in variables.items()}, owned)


def _finalize(model: Any) -> None:
    """Let Normalization layers, which hold constants beside their variables, take over what was loaded."""
    for layer in Network(model).leaves():
        for part in parts(layer):
            if hasattr(part, "finalize_state") and part.built:
                part.finalize_state()


def _from_file(model: Any, path: str, except_for: Sequence[str]) -> State:
    """Read a file through a model that numbers its layers as the model that wrote the file."""
    if path.endswith(".keras"):
        state = base_state(keras.saving.load_model(path, compile=False))
        check_excepted(except_for, [*state, *(key for key, _ in _variables(model, of_eca=False))])
        return state
    network = Network(model)
    installed = installed_layers(network)
    lost = [entry.path for _, entry in installed if entry.action == "replace"]
    if lost:
        raise lost_blocks(lost)
    plain = rebuilt(network, Edits(dropped={id(layer) for layer, _ in installed}), compiled=False)
    load_weights_file(plain, path, except_for)
    return base_state(plain)
