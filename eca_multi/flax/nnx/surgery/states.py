"""The weights of an nnx network and those of its ECAs, apart: two pure dicts, for two checkpoints."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from eca_multi._states import check_fits, converted
from eca_multi.flax._owned import owned
from eca_multi.flax.nnx._assign import Bare, assign
from eca_multi.flax.nnx.layers import ECAParam
from eca_multi.surgery.errors import no_eca

from ._find.check import check_model
from ._find.places import installed, kernel_path

Model = TypeVar("Model", bound=nnx.Module)
Key = tuple[str, ...]


def eca_parameters(model: nnx.Module) -> nnx.State:
    """Return the kernels of all ECA layers.

    Args:
        model: A network with ECA.

    Returns:
        An `nnx.State` of `ECAParam`s: what `nnx.state(model, ECAParam)` is.

    Raises:
        NoSiteError: If the network has no ECA.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import eca_parameters, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> eca_parameters(net)["layers"][0]["eca"]["kernel"].shape
        (3, 1, 1)
    """
    _check_any(model)
    return nnx.state(model, ECAParam)


def freeze_except_eca(model: nnx.Module) -> type[ECAParam]:
    """Return the filter that lets only the ECA kernels be trained. nnx has no flag on a parameter to change.

    Args:
        model: A network with ECA, which stays as it is. Call `model.eval()` yourself to keep the running statistics of
            norms too.

    Returns:
        `ECAParam`, for `nnx.Optimizer(model, tx, wrt=...)` and `nnx.DiffState(0, ...)`.

    Raises:
        NoSiteError: If the network has no ECA, so that nothing would be trained.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import freeze_except_eca, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> only_eca = freeze_except_eca(net)
        >>> optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=only_eca)
        >>> gradient = nnx.grad(lambda net, x: net(x).sum(), argnums=nnx.DiffState(0, only_eca))
    """
    _check_any(model)
    return ECAParam


def base_state(model: nnx.Module) -> dict[Any, Any]:
    """Return the state without the inserted ECAs, as the plain network's `nnx.to_pure_dict(nnx.state(model))` has it.

    Args:
        model: With or without ECA.

    Returns:
        A new nested dict; the arrays are the model's own.

    Raises:
        TypeError: If the model is no nnx module.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import base_state, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> sorted(base_state(net)["layers"][0])
        ['bias', 'kernel']
    """
    return _part(model, of_eca=False)


def eca_state(model: nnx.Module) -> dict[Any, Any]:
    """Return the kernels of the inserted ECAs alone: a few hundred numbers for a large network.

    Args:
        model: A network with ECA.

    Returns:
        A new nested dict under the paths of the whole state.

    Raises:
        NoSiteError: If the network has no ECA.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import eca_state, insert_eca
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> eca_state(net)["layers"][0]["eca"]["kernel"].shape
        (3, 1, 1)
    """
    _check_any(model)
    return _part(model, of_eca=True)


def load_base_state(model: Model, state: Mapping[Any, Any]) -> Model:
    """Load a plain network's state into a network with ECA; its ECAs go back to the identity.

    Args:
        model: With or without ECA; changed in place.
        state: What `base_state` returned, or the pure dict or `nnx.State` of a plain network; list indices may be
            text, as some checkpoints have them. The state may leave out the keys and counts of random streams, which
            then stay as they are.

    Returns:
        The model. ECAs whose gate is not 2*sigmoid have no identity and keep their kernels.

    Raises:
        ValueError: With all missing, unexpected and mis-shaped arrays; or with all arrays that hold numbers out of
            range, or NaN or infinity where the model holds none (a mask may hold -inf). TypeError: With all entries
            that are no arrays with values, or of another kind of number. After an error the model is as it was; the
            model never shares memory with `state`.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import base_state, insert_eca, load_base_state
        >>> net = nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0)))
        >>> old = base_state(net)
        >>> net = load_base_state(insert_eca(net, "conv"), old)
    """
    check_model(model)
    targets, new = _fitting(model, state, of_eca=False)
    for site, layer in installed(model):
        kernel = layer.kernel
        if layer.gate == "2sigmoid" and not isinstance(kernel.get_value(), jax.ShapeDtypeStruct):
            targets[kernel_path(site),] = kernel
            new[kernel_path(site),] = jnp.zeros_like(kernel.get_value())
    return assign(model, targets, new)


def load_eca_state(model: Model, state: Mapping[Any, Any]) -> Model:
    """Load what `eca_state` returned.

    Args:
        model: With the same ECAs; changed in place.
        state: A nested dict.

    Returns:
        The model.

    Raises:
        NoSiteError: If the model has no ECA. TypeError, ValueError: As `load_base_state`; nothing is changed.

    Example:
        >>> from flax import nnx
        >>> from eca_multi.flax.nnx import eca_state, insert_eca, load_eca_state
        >>> net = insert_eca(nnx.Sequential(nnx.Conv(3, 64, (3, 3), rngs=nnx.Rngs(0))), "conv")
        >>> net = load_eca_state(net, eca_state(net))
    """
    _check_any(model)
    return assign(model, *_fitting(model, state, of_eca=True))


def flat(state: Any) -> dict[Key, Any]:
    """Return the arrays of an `nnx.State` or a pure dict by their path as text; list indices may be text already."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a nested dict or an nnx.State. Received: {type(state).__name__}. "
            "Pass what base_state, eca_state or nnx.to_pure_dict returned."
        )
    result: dict[Key, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            result.update({(str(key), *inner): leaf for inner, leaf in flat(value).items()})
        else:
            result[(str(key),)] = value.get_value() if isinstance(value, nnx.Variable) else value
    return result


def _check_any(model: nnx.Module) -> None:
    check_model(model)
    if not jax.tree.leaves(nnx.state(model, ECAParam)):
        raise no_eca(type(model).__name__)


def _variables(model: nnx.Module, of_eca: bool) -> dict[tuple[Any, ...], nnx.Variable]:
    """Return the variables by path: the inserted ECAs' kernels, or all others."""
    kernels = {tuple(kernel_path(site).split(".")) for site, _ in installed(model)}
    everything = nnx.to_flat_state(nnx.state(model))
    return {path: v for path, v in everything if (tuple(map(str, path)) in kernels) == of_eca}


def _part(model: nnx.Module, of_eca: bool) -> dict[Any, Any]:
    check_model(model)
    result: dict[Any, Any] = {}
    for path, variable in _variables(model, of_eca).items():
        inner = result
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = variable.get_value() if isinstance(variable, nnx.Variable) else variable
    return result


def _fitting(
    model: nnx.Module, state: Mapping[Any, Any], of_eca: bool
) -> tuple[dict[Key, nnx.Variable | Bare], dict[Key, jax.Array]]:
    """Return the model's variables by path, and checked copies of the arrays in the state."""
    targets = {
        tuple(map(str, path)): leaf if isinstance(leaf, nnx.Variable) else Bare(model, path, leaf)
        for path, leaf in _variables(model, of_eca).items()
    }
    arrays = flat(state)
    # A dropout's keys and counts are no weights: a state may have them or not.
    targets = {path: leaf for path, leaf in targets.items() if path in arrays or not isinstance(leaf, nnx.RngState)}
    now = {path: variable.get_value() for path, variable in targets.items()}
    check_fits(now, arrays, of_eca, ".".join)
    return targets, converted({path: (arrays[path], value) for path, value in now.items()}, owned, ".".join)
