"""Keras on PyTorch: its layers are torch modules, so the PyTorch engine runs them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from eca_multi.parity.define.job import Job

from . import keras as _keras
from .base import Native
from .torch import TorchEngine


class KerasEngine(TorchEngine):
    distributions = ("keras", "torch")
    probes = "keras"
    optimizers = "optimizer_keras"

    def built(self, job: Job) -> Any:
        return _keras.build(self.adapter, job, {name: t.detach() for name, t in self.tensors(job).items()})

    def parameters(self, layer: Any) -> Native:
        return {name: variable.value for name, variable in _keras.variables(layer).items()}

    def precision(self, job: Job) -> AbstractContextManager[Any]:
        return nullcontext()  # the layer has a dtype policy of its own

    def save_and_load(self, job: Job) -> Native:
        layer, _, _ = self.load(job)
        return _keras.save_and_load(layer, self.built(job))
