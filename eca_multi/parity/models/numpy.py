"""A NumPy function of the caller with its parameters: called as function(parameters, *inputs), without gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eca_multi.parity.define.dtypes import DTYPES
from eca_multi.parity.define.structures import leaves, rebuilt

from .calls import Given
from .mode import keywords_for, may_say, training_of, with_mode
from .model import Arrays, Model, Run, arguments_of, outputs_of, signature_of


class NumpyFunction(Model):
    framework = "numpy"
    differentiable = False

    def __init__(self, function: Callable[..., Any], parameters: Any, keywords: Mapping[str, Any]) -> None:
        self._function, self._parameters, self._keywords = function, parameters, keywords
        self._wrap: Callable[[np.ndarray], np.ndarray] = np.asarray

    @property
    def name(self) -> str:
        return f"{getattr(self._function, '__name__', 'function')} (numpy)"

    def weights(self) -> dict[str, np.ndarray]:
        return {path: np.array(array) for path, array in leaves("w", self._parameters).items()}

    def trained(self) -> frozenset[str]:
        return frozenset()

    def with_weights(self, weights: Arrays) -> "NumpyFunction":
        return NumpyFunction(self._function, rebuilt("w", self._parameters, weights), self._keywords)

    def in_mode(self, training: bool) -> "NumpyFunction":
        keywords = with_mode(self.name, self._keywords, keywords_for(self._function, training), training)
        return NumpyFunction(self._function, self._parameters, keywords)

    @property
    def training(self) -> str:
        return training_of(self._keywords)

    @property
    def keywords_alone_say(self) -> bool:
        return may_say(self._keywords)

    @property
    def takes(self) -> str:
        return signature_of(self._function, 1)

    def with_wrap(self, wrap: Callable[[np.ndarray], np.ndarray]) -> "NumpyFunction":
        """Return the model with a function that every array passes through, by which a budget adds its noise."""
        other = NumpyFunction(self._function, self._parameters, self._keywords)
        other._wrap = wrap
        return other

    def native_run(
        self,
        inputs: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        held, entered = (
            {name: self._cast(array, dtype) for name, array in leaves(letter, tree).items()}
            for letter, tree in (("w", self._parameters), ("x", inputs))
        )
        before = {name: np.array(array) for name, array in entered.items()}
        arguments, keywords = arguments_of(rebuilt("x", inputs, entered))
        parameters = rebuilt("w", self._parameters, held)
        outputs = outputs_of(self._function(parameters, *arguments, **{**self._keywords, **keywords}))
        changed = [n for n, array in entered.items() if not np.array_equal(array, before[n], equal_nan=True)]
        return Run(outputs, changed=tuple(changed))

    def _cast(self, array: Any, dtype: str) -> np.ndarray:
        kind = DTYPES.get(dtype, np.dtype(np.float64))
        return self._wrap(np.array(array, kind)) if np.asarray(array).dtype.kind == "f" else np.array(array)

    def to_numpy(self, tensor: Any) -> np.ndarray:
        return np.array(tensor)
