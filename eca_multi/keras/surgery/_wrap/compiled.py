"""What a model was compiled with, for a new model: live objects, and the optimizer's state by variable."""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from eca_multi._printable import printable
from eca_multi.keras._owned import values
from eca_multi.keras._private import compile_arguments, learning_rate_of, optimized_by


def compile_like(old: Any, new: Any) -> None:
    """Compile a new model as an old one: the same losses and functions, new metrics, a new optimizer of the same state.

    Losses hold no state. A metric of the user's own class whose config does not tell it whole is the same object in
    both models.
    """
    arguments = compile_arguments(old)
    before = arguments["optimizer"]
    try:
        arguments["optimizer"] = None if before is None else new_optimizer(before)
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = keras.tree.map_structure(_metric, arguments[name])
        # A class with another compile() passes these arguments on to Keras's, so they are what counts.
        keras.Model.compile(new, **arguments, auto_scale_loss=old.optimizer is not before)
        if before is not None:
            copy_optimizer_state(old.optimizer, new.optimizer, new.trainable_variables)
    except Exception as error:
        warnings.warn(
            f"The new model is not compiled: what {old.name!r} was compiled with cannot be made again "
            f"({printable(str(error).strip().splitlines()[0][:120])}). Call its compile().",
            stacklevel=5,
        )
        new.compiled = False


def new_optimizer(old: Any) -> Any:
    """Return a new optimizer of the same settings, without state.

    Raises:
        ValueError: If its config does not tell its settings.
    """
    config = old.get_config()
    rate = learning_rate_of(old)
    if callable(rate) and not isinstance(rate, keras.Variable):
        config["learning_rate"] = rate  # a schedule or a function: neither holds state
    new = type(old).from_config(config)
    lost = [name for name, value in vars(old).items() if _is_setting(name, value) and vars(new).get(name) != value]
    if lost:
        raise ValueError(f"{type(old).__name__}.get_config does not tell {', '.join(lost)}")
    return new


def copy_optimizer_state(old: Any, new: Any, variables: Sequence[Any]) -> None:
    """Build the new optimizer for the new variables and copy the state of those that the old one knows.

    The order of the variables is the model's: Keras goes by it where it saves, and on JAX where it trains. The states
    are told apart by the last part of their paths, which names the variable: the parts before name the optimizers
    around, and differ where a LossScaleOptimizer was built by its first step.
    """
    if not old.built:
        return
    if not new.built:
        new.build(variables)
    state = defaultdict(list)  # of each name in order: two layers of nested models may share their names
    for variable in old.variables:
        state[_name(variable)].append(variable)
    for variable in new.variables:
        same = state[_name(variable)]
        if same and same[0].shape == variable.shape:
            variable.assign(values(same.pop(0)))


def _name(variable: Any) -> str:
    return str(variable.path.rsplit("/", 1)[-1])


def optimized_again(old: Any, trained: Sequence[Any], known: Mapping[int, Any]) -> list[Any]:
    """Return which of the new model's trained variables an optimizer is for that was built for some of the old ones.

    A kernel of ECA belongs to the optimizer of the variable before it.
    """
    of_old = {id(known[id(variable)]) for variable in optimized_by(old) if id(variable) in known}
    old_ones = {id(variable) for variable in known.values()}
    chosen, taken = [], False
    for variable in trained:
        taken = id(variable) in of_old if id(variable) in old_ones else taken
        if taken:
            chosen.append(variable)
    return chosen


def _metric(metric: Any) -> Any:
    if isinstance(metric, keras.metrics.Metric) and _tells_all(type(metric)):
        try:
            return type(metric).from_config(metric.get_config())
        except Exception:  # of a function that Keras does not know by name
            return metric
    return metric


def _tells_all(kind: type) -> bool:
    """Whether a metric's config tells all of its arguments: its class has a get_config for them, or there are none."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith(("keras.", "builtins"))]
    if not own or any("get_config" in vars(base) for base in own):
        return True
    arguments = inspect.signature(kind).parameters.values()
    return {one.name for one in arguments if one.kind is not one.VAR_KEYWORD} <= {"name", "dtype"}


def _is_setting(name: str, value: Any) -> bool:
    return (
        not name.startswith("_") and name != "built" and (value is None or isinstance(value, str | bool | int | float))
    )
