"""Every private name of Keras that this package uses, each with its reason and the public way that was tried.

A test resolves each name of the table, so that it says which name a new version of Keras has lost. `Class()` in a name
stands for an instance.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope

__all__ = ["PRIVATE_NAMES", "in_stateless_scope"]
PRIVATE_NAMES = {
    "keras.src.backend.common.stateless_scope.in_stateless_scope": (
        "Whether Keras is tracing a layer. keras.StatelessScope is public and does not tell whether one is entered; on "
        "torch's backend the tensors in it have values, so that an attempt to read a value does not tell either."
    ),
    "keras.src.backend.common.global_state.get_global_attribute": (
        "Keras lists the variables that are made without values. keras.StatelessScope(initialize_variables=False) "
        "leaves them in the list, and the next scope to end gives them values."
    ),
    "keras.src.backend.common.global_state.set_global_attribute": (
        "As get_global_attribute: it puts that list aside and back."
    ),
    "keras.src.utils.naming.auto_name": (
        "Keras counts the names of layers without one in the global attribute `object_name_uids`, which this function "
        "reads. A trial that makes layers puts the counts back, or the user's next layers would have other names."
    ),
    "keras.src.models.functional.Functional": (
        "The class that a keras.Model with a graph becomes. It has no public name with which to compare the methods of "
        "a user's class; it is looked up among the bases of a model."
    ),
    "keras.Model()._nodes_by_depth": (
        "The records of all calls in a graph. The public `operations` lists each operation once, however often the "
        "graph calls it. Of a Sequential, keras.Function(model.inputs, model.outputs) is asked, not `_functional`."
    ),
    "keras.Layer()._inbound_nodes": (
        "The records of all calls of an operation, in the order in which Keras numbers them. The public `output` is "
        "that of the first call alone."
    ),
    "keras.Layer()._outbound_nodes": (
        "Reset, as the records of calls, in a copy of an operation of keras.ops. Its from_config raises where an "
        "argument cannot be written to a config: the operands of einsum, an array."
    ),
    "keras.src.ops.node.Node().operation": (
        "Of the record of a call, whose class has no public name. The public `operations` of a model tells no calls."
    ),
    "keras.src.ops.node.Node().input_tensors": "As operation: a public attribute of a class without a public name.",
    "keras.src.ops.node.Node().outputs": "As operation: a public attribute of a class without a public name.",
    "keras.src.ops.node.Node().parent_nodes": "As operation: a public attribute of a class without a public name.",
    "keras.src.ops.node.Node().arguments.fill_in": (
        "The arguments of a recorded call. keras.models.clone_model(call_function=...) hands over the operation and "
        "not the call, so that one call of a shared layer could not be changed alone."
    ),
    "keras.Layer()._flatten_layers": "The layers in a layer: a model alone has public `layers`, a wrapper has none.",
    "keras.Variable()._name": "The public name is read-only; Keras counts the names of variables that got none.",
    "keras.Variable()._path": (
        "The public path is read-only. Keras makes it of the names of the layers around when a variable is made: names "
        "that are counted through the process, where layers in a layer got none, and so other ones in a copy."
    ),
    "keras.Layer()._remat_mode": (
        "Whether a layer recomputes its activations. keras.RematScope sets the mode of the layers that are made in it; "
        "nothing public reads the mode."
    ),
    "keras.Model()._compile_config.config": (
        "The arguments of compile, as objects. The public get_compile_config gives names, of which Keras cannot make a "
        "function or class of the user's again."
    ),
    "keras.optimizers.SGD()._learning_rate": (
        "A schedule or function, where the learning rate is one. The public learning_rate is its present value."
    ),
    "keras.optimizers.SGD()._trainable_variables": (
        "The variables that an optimizer was built for. The public `variables` are those of its own state."
    ),
    "keras.layers.Lambda()._output_shape": (
        "An argument of the layer. get_config gives a function as byte code, of which Keras refuses to make a layer."
    ),
}


# What `fit` puts into a model beside what __init__ and compile do.
OF_FIT = {
    *("history", "_jax_state", "_epoch_iterator", "_eval_epoch_iterator", "_trainable_variable_shardings"),
    *("_non_trainable_variable_shardings", "_optimizer_variable_shardings", "_metrics_variable_shardings"),
}


@contextmanager
def same_name_counts(afresh: bool = False) -> Iterator[None]:
    """Put the counts of automatic names back at the end; `afresh` counts from the start in between."""
    counts = copy.deepcopy(global_state.get_global_attribute("object_name_uids"))
    if afresh:
        global_state.set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", counts)


@contextmanager
def untouched(layers: list[Any]) -> Iterator[None]:
    """Put the attributes of layers back at the end, and the items of lists, such as the records of calls."""
    before = [(vars(layer), dict(vars(layer))) for layer in layers]
    lists = [(v, list(v)) for _, attributes in before for v in attributes.values() if isinstance(v, list)]
    try:
        yield
    finally:
        for attributes, old in before:
            for name in attributes.keys() - old.keys():
                del attributes[name]
            attributes.update(old)
        for items, old_items in lists:
            if list(map(id, items)) != list(map(id, old_items)):
                list.__setitem__(items, slice(None), old_items)  # Keras's own kind of list would track them anew


def nodes_of(function: Any) -> list[Any]:
    """Return the records of all calls in a graph, the calls farthest from the outputs first."""
    nodes = function._nodes_by_depth
    return [node for depth in sorted(nodes, reverse=True) for node in nodes[depth]]


def calls_of(operation: Any) -> list[Any]:
    """Return the records of all calls of an operation, in the order in which they were made."""
    return list(operation._inbound_nodes)


def arguments(node: Any, tensors: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a recorded call with other tensors, by the identity of the tensors that they replace."""
    args, kwargs = node.arguments.fill_in(tensors)
    return args, kwargs


def copied_operation(operation: Any) -> Any:
    """Return a copy of an operation of `keras.ops` that no graph calls."""
    new = copy.copy(operation)
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def functional_class(model: Any) -> type:
    """Return the class Functional, of which a model with a graph is an instance."""
    return next(c for c in type(model).__mro__ if c.__name__ == "Functional" and c.__module__.startswith("keras."))


def layers_in(layer: Any) -> list[Any]:
    """Return a layer and all layers inside, in the order in which they were made."""
    return list(layer._flatten_layers())


def copy_names(old: Any, new: Any) -> None:
    """Give the layers in a copy of a layer, and its variables, the names of the first ones.

    PyTorch's backend, where each layer is a torch.nn.Module, lists variables by path: `track_again` after it.
    """
    for part, copied in zip(layers_in(old), layers_in(new), strict=True):
        copied.name = part.name
    for variable, copied in zip(old.variables, new.variables, strict=True):
        copied._name, copied._path = variable.name, variable.path


def track_again(layer: Any) -> None:
    """List the variables of a layer, and of those inside, by the paths that they have now, where a backend does."""
    for part in layers_in(layer) if keras.backend.backend() == "torch" else ():
        if "_torch_params" in dict(part.named_children()):
            part.torch_params.clear()
            part.torch_params.update({variable.path: variable.value for variable in part.variables})


def copy_remat_mode(old: Any, new: Any) -> None:
    """Make a new layer recompute its activations if the old layer does."""
    new._remat_mode = old._remat_mode


def compile_arguments(model: Any) -> dict[str, Any]:
    """Return a copy of what a model's compile was called with."""
    return dict(model._compile_config.config)


def learning_rate_of(optimizer: Any) -> Any:
    return getattr(optimizer, "_learning_rate", None)  # a LossScaleOptimizer has that of the optimizer inside


def optimized_by(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for."""
    return list(optimizer._trainable_variables) if optimizer.built else []


def output_shape_of(layer: Any) -> Any:
    return layer._output_shape


@contextmanager
def without_values() -> Iterator[Any]:
    """Give a stateless scope in which variables are made without values: a network is as large as its file."""
    pending = global_state.get_global_attribute("uninitialized_variables")
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        global_state.set_global_attribute("uninitialized_variables", pending)
