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
from .mode import MODES, keywords_for, may_say, training_of, with_mode
from .model import Arrays, Native, arguments_of, signature_of


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

    @property
    def takes(self) -> str:
        return signature_of(type(self.module).__call__, 1)

    def in_mode(self, training: bool) -> "LinenModel":
        wanted = {name: value is training for name, value in MODES.items()}
        held = {name: value for name, value in wanted.items() if getattr(self.module, name, None) is not None}
        called = {n: v for n, v in keywords_for(type(self.module).__call__, training).items() if n not in held}
        module = self.module.clone(**held) if held else self.module
        keywords = with_mode(self.name, self.keywords, called, training) if called or not held else self.keywords
        return LinenModel(module, unflatten_dict(self._variables, sep="/"), keywords)

    @property
    def training(self) -> str:
        fields = {name: getattr(self.module, name, None) for name in MODES}
        return training_of(self.keywords) or training_of(fields)

    @property
    def keywords_alone_say(self) -> bool:
        return may_say(self.keywords)

    def functional(self, dtype: str) -> tuple[Apply, Native]:
        def apply(weights: Native, inputs: Any, recorder: Recorder | None) -> Returned:
            arguments, keywords = arguments_of(inputs)
            variables = unflatten_dict(weights, sep="/")
            states = [name for name in variables if name != "params"]
            with nn.intercept_methods(_heard(recorder, dtype)):
                out, states = self.module.apply(variables, *arguments, mutable=states, **{**self.keywords, **keywords})
            after = flatten_dict(states, sep="/")
            return out, {path: value for path, value in after.items() if value is not weights.get(path)}

        return apply, self._variables


def _heard(recorder: Recorder | None, dtype: str) -> Any:
    """Return linen's interceptor that lets a recorder hear each `__call__`.

    The cell of an RNN begins with a state of the dtype, since JAX's loops refuse a state whose dtype changes.
    """

    def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        if isinstance(context.module, nn.RNN):  # the module within a call is a copy
            object.__setattr__(context.module.cell, "param_dtype", jnp.dtype(dtype))
        if recorder is None or context.method_name != "__call__":
            return call(*arguments, **keywords)
        path = "/".join(context.module.path)
        return recorder.call(path, type(context.module).__name__, call, arguments, keywords)

    return intercept
