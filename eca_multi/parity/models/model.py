"""A model that the caller has, whatever its framework: its weights by native path, and its runs."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eca_multi.parity.define.structures import leaves

from .calls import Call, Given

Native = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """What a run returned: tensors by path, of the framework or, from `Model.run`, of NumPy in the dtype they had.

    Gradients are those of sum(cotangent * output). `calls` holds the calls of submodules in the order in which they
    returned, where the run was recorded. `changed` names the inputs that the model has written into. `states` holds the
    floating weights and states, by native path, that the call has given other values: the statistics of training.
    """

    outputs: Native
    input_gradients: Native = field(default_factory=dict)
    weight_gradients: Native = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    changed: tuple[str, ...] = ()
    states: Native = field(default_factory=dict)


class Model(ABC):
    """A torch nn.Module, Keras layer, nnx module, linen (module, variables), or (function, tree of parameters).

    Inputs are an array, a tuple or a dict of arrays (or deeper trees). An array is the first argument of the call, a
    tuple holds its arguments in order, and a dict its keywords. A model is never changed: runs work on copies.
    """

    @property
    @abstractmethod
    def framework(self) -> str:
        """ "torch", "jax", "nnx", "linen", "numpy", or "keras-" and its backend."""

    @abstractmethod
    def weights(self) -> dict[str, np.ndarray]:
        """Return all weights and states by native path."""

    @abstractmethod
    def trained(self) -> frozenset[str]:
        """Return the paths of the weights that have gradients."""

    @abstractmethod
    def with_weights(self, weights: Arrays) -> "Model":
        """Return a model like this one with other values for the weights of `weights`."""

    @abstractmethod
    def native_run(
        self,
        inputs: Any,
        dtype: str,
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        """Do the work of `run` with tensors of the framework, which a noisy reference goes on computing with."""

    @abstractmethod
    def to_numpy(self, tensor: Any) -> np.ndarray:
        """Copy a tensor to NumPy, in its own dtype (bfloat16 is that of ml_dtypes)."""

    @property
    def name(self) -> str:
        """The model's name in reports: the framework and the class."""
        return self.framework

    @property
    def takes(self) -> str:
        """The arguments of the call, as "(x, mask=None)"; "" where they are unknown."""
        return ""

    @property
    def differentiable(self) -> bool:
        """Whether the model has gradients; a NumPy function has none."""
        return True

    @property
    def training(self) -> str:
        """What puts the model into training mode: a path and type, or an argument; "" for nothing that is known."""
        return ""

    @abstractmethod
    def in_mode(self, training: bool) -> "Model":
        """Return a model like this one that is called as in training, or as in inference.

        Raises:
            SpecError: If the model has no argument for that.
        """

    @property
    def keywords_alone_say(self) -> bool:
        """Whether the caller gives keywords for the call that may say the mode by a name which is not known."""
        return False

    @property
    def shared(self) -> dict[str, str]:
        """The paths of `weights` that are other paths of one array, as of a tied weight, each with the first path."""
        return {}

    @property
    def devices(self) -> frozenset[str]:
        """Where the weights are: "cpu", "gpu", "meta"."""
        return frozenset({"cpu"})

    def operation(self, weight: str) -> str:
        """Return the PyTorch operation that reads a weight: "conv2d", "linear"; "" where it is unknown."""
        return ""

    def run(
        self,
        inputs: Any,
        dtype: str = "float32",
        cotangents: Arrays | None = None,
        record: bool = False,
        given: Given | None = None,
    ) -> Run:
        """Call the model on arrays, with floats of `dtype` for weights and inputs.

        Args:
            inputs: NumPy arrays in the structure of the call.
            dtype: "float32", "bfloat16", "float16" or "float64".
            cotangents: For each output with a gradient, an array of its shape; an output without one gets zeros. None
                computes no gradients.
            record: Whether to keep what goes into and comes out of each submodule.
            given: A submodule's call whose inputs are replaced; the run ends when this call returns.
        """
        run = self.native_run(inputs, dtype, cotangents, record, given)
        groups = {
            name: {path: self.to_numpy(tensor) for path, tensor in getattr(run, name).items()}
            for name in ("outputs", "input_gradients", "weight_gradients", "states")
        }
        return Run(**groups, changed=run.changed, calls=tuple(self._numpy(call) for call in run.calls))

    def _numpy(self, call: Call) -> Call:
        inputs, outputs, gradients = (
            {path: self.to_numpy(tensor) for path, tensor in group.items()}
            for group in (call.inputs, call.outputs, call.gradients)
        )
        return replace(call, inputs=inputs, outputs=outputs, gradients=gradients)


def signature_of(function: Any, skip: int = 0) -> str:
    """Return the arguments of a function as text, without the first ones and without types; "" where it has none."""
    try:
        known = [*inspect.signature(function).parameters.values()][skip:]
    except (TypeError, ValueError):  # some callables of C have no signature
        return ""
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in known]
    return str(inspect.Signature(plain))


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and keywords of a call on these inputs."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def outputs_of(returned: Any) -> Native:
    """Name what a call returned: "y", or "y0", "y1", or the keys and fields of a dict or dataclass."""
    return {name: leaf for name, leaf in leaves("y", returned).items() if hasattr(leaf, "shape")}
