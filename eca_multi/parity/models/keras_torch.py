"""A Keras layer on the torch backend, which is a torch module."""

from contextlib import AbstractContextManager

import torch

from eca_multi.parity.engines.keras import variables

from . import keras as _keras
from .calls import Recorder
from .torch import TorchModel


class KerasModel(_keras.KerasLayer, TorchModel):
    @property
    def module(self) -> torch.nn.Module:  # type: ignore[override]  # TorchModel assigns it
        return self.layer  # type: ignore[no-any-return]  # Keras has no types

    def in_dtype(self, dtype: str) -> torch.nn.Module:
        return self.layer_in(dtype)  # type: ignore[no-any-return]  # Keras has no types

    def heard(self, module: torch.nn.Module, recorder: Recorder | None) -> AbstractContextManager[None]:
        return _keras.heard(module, recorder)

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {path: variable.value for path, variable in variables(module).items()}

    def states(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {path: variable.value for path, variable in variables(module).items() if not variable.trainable}

    def operation(self, weight: str) -> str:
        return ""
