"""Keras on JAX: StatelessScope makes a layer a pure function, and the JAX engine runs it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras

from eca_multi.parity.define.job import Job

from . import keras as _keras
from .base import Native
from .jax import Apply, JaxEngine
from .weight_map import check_trained, map_of


class KerasEngine(JaxEngine):
    distributions = ("keras", "jax", "jaxlib")
    probes = "keras"
    optimizers = "optimizer_keras"

    def functional(self, job: Job) -> tuple[Apply, Mapping[str, Any]]:
        settings, (layer, variables, _) = job.settings(), self.built(job)
        check_trained(self.adapter, job, map_of(self.adapter, job, variables), _keras.trained(variables))

        def apply(weights: Native, state: Native, inputs: Native) -> tuple[Any, Native]:
            mapping = [(variables[name], value) for name, value in {**weights, **state}.items()]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                out = self.adapter.call(layer, inputs, settings)
            new = {name: scope.get_current_value(variables[name]) for name in state}
            return out, {name: state[name] if value is None else value for name, value in new.items()}

        return apply, {name: variable.value for name, variable in variables.items()}

    def built(self, job: Job) -> tuple[Any, dict[str, Any], Native]:
        """Return a layer, its variables, and the inputs that it was built with."""
        inputs = {name: self.array(array, job.dtype) for name, array in self.native_inputs(job).items()}
        layer = _keras.build(self.adapter, job, inputs, _traced)
        return layer, _keras.variables(layer), inputs

    def parameter(self, array: Any, like: Any, job: Job) -> Any:
        return self.array(array, str(like.dtype))

    def save_and_load(self, job: Job) -> Native:
        layer, variables, _ = self.built(job)
        _keras.assign(job, map_of(self.adapter, job, variables), variables)
        return _keras.save_and_load(layer, self.built(job)[0])


def _traced(layer: Callable[[Native], Any], inputs: Native) -> None:
    """Call a layer without computing: eagerly, JAX would compile each of its operations for each shape.

    The inputs go in as a list, since JAX sorts a dict by its keys and an adapter may count on their order.
    """
    with keras.StatelessScope():
        jax.eval_shape(lambda arrays: layer(dict(zip(inputs, arrays, strict=True))), list(inputs.values()))
