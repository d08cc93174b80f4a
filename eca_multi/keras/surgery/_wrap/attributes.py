"""The attributes of a model's own class: a copy for the new model, with the new model's layers and tensors."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from eca_multi.keras._owned import values
from eca_multi.keras._private import OF_FIT, same_name_counts
from eca_multi.keras.surgery._find.kinds import kind
from eca_multi.surgery.errors import UnsupportedModelError

from .clone import clone_operation, copy_state, same_random_state
from .compiled import new_optimizer


def own_attributes(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a model's class and its users keep in it beside what Keras does, by name.

    The first dict holds what was set before Keras's own __init__ ran, the second what was set after: the order in which
    a model comes to know its layers is the order of its weights.
    """
    kept = {name: value for name, value in vars(model).items() if name not in _of_keras()}
    order = list(vars(model))
    start = order.index("name")
    before = {name: value for name, value in kept.items() if order.index(name) < start}
    after = {name: value for name, value in kept.items() if name not in before}
    return before, after | {name: module for name, module in _torch_modules(model) if name not in _of_keras()}


class Copies:
    """Copies of attributes, each object once: what was made anew already is taken, all else is copied.

    Args:
        remake: Returns a new model like a model that is outside of the graph, and the new layer of a layer in it.
        is_in_graph: Whether a layer is in the graph; it may be met in an attribute before its call.
    """

    def __init__(self, remake: Callable[[Any], Any], is_in_graph: Callable[[Any], bool]) -> None:
        self.optimizers: list[tuple[Any, Any]] = []  # old and new, whose states are still to be copied
        self._memo: dict[int, Any] = {}
        self._remake = remake
        self._is_in_graph = is_in_graph

    def knows(self, *made: dict[int, Any]) -> None:
        """Take what was made anew: the new layer, model or tensor for the `id` of an old one."""
        for new in made:
            self._memo |= new

    def of(self, value: Any, name: str) -> Any:
        """Return the copy of a value that stands, somewhere, in the attribute of that name."""
        if id(value) not in self._memo:
            self._memo[id(value)] = self._copy(value, name)
            self._memo.setdefault(id(self._memo), []).append(
                value
            )  # alive as long as its id is a key: as deepcopy does
        return self._memo[id(value)]

    def _copy(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            items = {self.of(key, name): self.of(item, name) for key, item in value.items()}
            return items if _is_tracked(value) or type(value) is dict else _like(value, items)
        if isinstance(value, list | tuple | set):
            copies = [self.of(item, name) for item in value]
            if hasattr(value, "_fields"):
                return type(value)(*copies)
            plain = next(cls for cls in (list, tuple, set) if isinstance(value, cls))
            return (plain if _is_tracked(value) else type(value))(copies)
        is_model = isinstance(value, keras.Model) and isinstance(value, keras.Function | keras.Sequential)
        if is_model or self._is_in_graph(value):
            return self._remake(value)
        if isinstance(value, keras.Layer | keras.metrics.Metric | keras.random.SeedGenerator):
            return _remade(value, name)
        if isinstance(value, keras.optimizers.Optimizer):
            self.optimizers.append((value, new_optimizer(value)))
            return self.optimizers[-1][1]
        if isinstance(value, keras.Variable):
            return keras.Variable(values(value), dtype=value.dtype, trainable=value.trainable, name=value.name)
        if isinstance(value, keras.KerasTensor):
            raise _unsupported(name, "a symbolic tensor of another graph")
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:  # a lock, a file, a generator: nothing of the network; both models use the same one
            return value


def _remade(value: Any, name: str) -> Any:
    if isinstance(value, keras.Layer):
        new = clone_operation(value)
        copy_state(value, new)
        return new
    try:
        new = type(value).from_config(value.get_config())
    except Exception as error:
        raise _unsupported(name, f"a {kind(value)} that its config does not make again") from error
    state = [value.state] if isinstance(value, keras.random.SeedGenerator) else value.variables
    made = [new.state] if isinstance(new, keras.random.SeedGenerator) else new.variables
    for old, variable in zip(state, made, strict=False):
        variable.assign(values(old))
    return new


def _unsupported(name: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model must hold attributes that can be copied. Received: {name!r}, which is {what}. "
        "Delete the attribute, or pass keep_class=False for a plain model with the same graph."
    )


def _like(value: Any, items: dict[Any, Any]) -> Any:
    new = copy.copy(value)
    new.clear()
    new.update(items)
    return new


def _is_tracked(value: Any) -> bool:
    """Whether Keras (or TensorFlow) put a container into a wrapper of its own, as it will do again."""
    return type(value).__module__.startswith(("keras.", "tensorflow."))


@functools.cache
def _of_keras() -> frozenset[str]:
    """The names that plain, compiled models have on this backend."""
    with same_random_state(), same_name_counts():
        x = keras.Input((1,))
        models = (keras.Model(x, keras.layers.Dense(1)(x)), keras.Sequential([x, keras.layers.Dense(1)]))
        for model in models:
            model.compile("sgd", "mse", metrics=["mae"])
    return frozenset(OF_FIT.union(*(vars(model) for model in models), *(dict(_torch_modules(m)) for m in models)))


def _torch_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers that are attributes on PyTorch's backend, which keeps them apart from other attributes."""
    if keras.backend.backend() == "torch":
        for name, module in model.named_modules(remove_duplicate=False):
            if name and "." not in name and name != "_torch_params":
                yield name, module
