"""A Keras layer on the JAX backend, made a pure function by a StatelessScope."""

from typing import Any

import keras

from . import keras as _keras
from .calls import Recorder
from .jax import Apply, JaxModel, Returned
from .model import Native


class KerasModel(_keras.KerasLayer, JaxModel):
    def functional(self, dtype: str) -> tuple[Apply, Native]:
        layer = self.layer_in(dtype)
        held = self.variables(layer)

        def apply(weights: Native, inputs: Any, recorder: Recorder | None) -> Returned:
            mapping = [(held[path], value) for path, value in weights.items()]
            with keras.StatelessScope(state_mapping=mapping) as scope, self.heard(layer, recorder):
                before = {path: scope.get_current_value(variable) for path, variable in held.items()}
                out = self.call(layer, inputs)
                after = {path: scope.get_current_value(variable) for path, variable in held.items()}
            return out, {path: value for path, value in after.items() if value is not before[path]}

        return apply, {path: variable.value for path, variable in held.items()}
