"""A Flax linen module of the caller with its variables: (module, variables), and keywords for each call."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from .calls import Recorder
from .jax import Apply, JaxModel, Returned
from .model import Arrays, Native, arguments_of


class LinenModel(JaxModel):
    framework = "linen"

    def __init__(
        self, module: nn.Module, variables: Mapping[str, Any], keywords: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.module, self.keywords = module, keywords
        self._variables: Native = {path: jnp.asarray(a) for path, a in flatten_dict(variables, sep="/").items()}

    @property
    def name(self) -> str:
        return f"{type(self.module).__name__} (linen)"

    def weights(self) -> dict[str, np.ndarray]:
        return {path: np.array(array) for path, array in self._variables.items()}

    def trained(self) -> frozenset[str]:
        return frozenset(path for path in self._variables if path.startswith("params/"))

    def with_weights(self, weights: Arrays) -> "LinenModel":
        return LinenModel(self.module, unflatten_dict({**self._variables, **weights}, sep="/"), self.keywords)

    def functional(self, dtype: str) -> tuple[Apply, Native]:
        def apply(weights: Native, inputs: Any, recorder: Recorder | None) -> Returned:
            arguments, keywords = arguments_of(inputs)
            variables = unflatten_dict(weights, sep="/")
            states = [name for name in variables if name != "params"]
            with nn.intercept_methods(_heard(recorder)):
                out, states = self.module.apply(variables, *arguments, mutable=states, **{**self.keywords, **keywords})
            after = flatten_dict(states, sep="/")
            return out, {path: value for path, value in after.items() if value is not weights.get(path)}

        return apply, self._variables


def _heard(recorder: Recorder | None) -> Any:
    """Return linen's interceptor that lets a recorder hear each `__call__`."""

    def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if recorder is None or context.method_name != "__call__":
            return call(*arguments, **keywords)
        path = "/".join(context.module.path)
        return recorder.call(path, type(context.module).__name__, call, arguments, keywords)

    return intercept
