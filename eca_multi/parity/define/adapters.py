"""Adapters: a user writes one to bring a layer of one framework into the harness.

An adapter names the framework (by its base class), the layer (`build`), the framework's order of axes (`layout`) and
its names of the weights (`weights`). `build` imports the framework, so that a worker imports no other framework of the
same file. The framework's engine does the work.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import Parameter, signature
from typing import Any, ClassVar


def unsupported(known: Mapping[str, str], check: str, dtype: str) -> str | None:
    """Return the reason, from an adapter's `unsupported`, why it cannot do a check in a dtype; None if it can."""
    return known.get(check) or known.get(dtype) or known.get(f"{check} {dtype}")


class Adapter:
    """The base of all adapters; subclass one of the frameworks'.

    Attributes:
        layout: Order of the axes in this framework, such as "NCHW". "*" stands for all axes not named: "NC*". None is
            the specification's own order.
        weights: Native name -> "canonical name: axes -> axes" in einops' language, such as {"conv.weight":
            "w: k -> 1 1 k"}; "w" alone keeps the order, and docs/own-layer.md lists all forms. Every parameter and
            buffer of the layer must appear, and every weight and state of the specification; None leaves a counter or
            a seed out. None for the whole map means equal names and orders.
        taps: Tap -> native name of the sub-layer that returns it. The alternative is `tap` within the layer. Where the
            specification gives a tap's axes, `layout` says their order here too.
        unsupported: Check, dtype, or both ("input_grad float16") -> the reason why this adapter cannot do it.
    """

    engine: ClassVar[str] = ""
    layout: str | None = None
    weights: Mapping[str, str | None] | None = None
    taps: Mapping[str, str] = {}
    unsupported: Mapping[str, str] = {}

    def build(self, config: Mapping[str, Any]) -> Any:
        """Return the layer; `config` holds the case's settings and sizes, "dtype" and "param_dtype"."""
        raise NotImplementedError

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        """Call the layer; return a tensor, a tuple in the order of the specification's outputs, or a dict by name."""
        return layer(*inputs.values())

    def tapping(self) -> AbstractContextManager[Any]:
        """Make the layer call `tap` within this context, where neither its code nor a sub-layer can."""
        return nullcontext()

    def layout_for(self, config: Mapping[str, Any]) -> str | None:
        """Return `layout`; override it where it depends on the case."""
        return self.layout

    def weights_for(self, config: Mapping[str, Any]) -> Mapping[str, str | None] | None:
        """Return `weights`; override it where the map depends on the case."""
        return self.weights


class TorchAdapter(Adapter):
    """A `torch.nn.Module`, or a function of (inputs, weights); its names are those of `state_dict`.

    The engine runs the module eagerly, and in the check `compiled` under `torch.compile(fullgraph=True)`. `.to()` sets
    the dtype; mixed precision is `torch.autocast`.
    """

    engine = "torch"


class KerasAdapter(Adapter):
    """A Keras 3 layer or model, on the backend of its runner; names are paths within the layer: "kernel", "dense/bias".

    The engine builds the layer under the dtype policy of the job. The check `compiled` takes
    `tf.function(jit_compile=True)`, `jax.jit` or `torch.compile`.
    """

    engine = "keras"

    def call(self, layer: Any, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
        """Call the layer, in training if config["training"] is true."""
        return layer(*inputs.values(), training=bool(config.get("training", False)))


class LinenAdapter(Adapter):
    """A Flax linen module; names are paths within the variables: "params/Dense_0/kernel", "batch_stats/mean"."""

    engine = "linen"


class NnxAdapter(Adapter):
    """A Flax nnx module; names are paths of its state: "kernel", "conv.bias"."""

    engine = "nnx"


class JaxAdapter(Adapter):
    """A JAX function of (inputs, weights), dicts by canonical name, with the states among the weights.

    The function returns a state after the call as the output new_<name>.
    """

    engine = "jax"


class NumpyAdapter(Adapter):
    """A NumPy function of (inputs, weights), dicts by canonical name. The reference runs in float64.

    Attributes:
        gradients: None, or a method (inputs, weights, cotangents, config) that returns {"dx": ...} for every input and
            weight. Without gradients a run compares outputs alone.
        solve: None, or a method (job) that returns {name: (reference, error)}: an analytic budget.
    """

    engine = "numpy"
    gradients: Callable[..., Mapping[str, Any]] | None = None
    solve: Callable[..., Mapping[str, Any]] | None = None


def adapter_of(thing: Any) -> Any:
    """Return the adapter of a class, of an object, or of a factory: a callable without arguments that returns either.

    Anything else comes back unchanged.
    """
    for _ in range(2):  # a factory may return a class
        if not isinstance(thing, Adapter) and callable(thing) and _needs_nothing(thing):
            thing = thing()
    return thing


def _needs_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # of a builtin
        return False
    named = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return not any(p.default is Parameter.empty and p.kind in named for p in parameters)
