"""A Keras layer on the torch backend, which is a torch module."""

import torch

from . import keras as _keras
from .torch import TorchModel


class KerasModel(_keras.KerasLayer, TorchModel):
    @property
    def module(self) -> torch.nn.Module:  # type: ignore[override]  # TorchModel assigns it
        return self.layer  # type: ignore[no-any-return]  # Keras has no types

    def in_dtype(self, dtype: str) -> torch.nn.Module:
        return self.layer_in(dtype)  # type: ignore[no-any-return]  # Keras has no types

    def tensors(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {path: variable.value for path, variable in self.variables(module).items()}

    def states(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {path: variable.value for path, variable in self.variables(module).items() if not variable.trainable}

    def operation(self, weight: str) -> str:
        return ""
