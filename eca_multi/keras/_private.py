"""Every private name of Keras that this package uses, each with its reason and the public way that was tried.

`tests/ground/test_private_names.py` says by name which one a new version of Keras has lost.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope as in_stateless_scope

# `in_stateless_scope`: whether Keras is tracing a layer. `keras.StatelessScope` is public and does not tell whether one
# is entered; on torch's backend the tensors in it have values, so an attempt to read a value does not tell either.


def nodes_of(function: Any) -> list[Any]:
    """Return the records of all calls in a `keras.Function`, the calls farthest from the outputs first.

    `_nodes_by_depth`: `Function.operations` lists each operation once, however often the graph calls it. A record's
    class has no public name; its `operation`, `input_tensors`, `outputs`, `parent_nodes` and `arguments` are read.
    """
    nodes = function._nodes_by_depth
    return [node for depth in sorted(nodes, reverse=True) for node in nodes[depth]]


def calls_of(operation: Any) -> list[Any]:
    """Return the records of all calls of an operation, in the order in which they were made.

    `_inbound_nodes`: `Operation.output` is that of the first call alone.
    """
    return list(operation._inbound_nodes)


def arguments(node: Any, tensors: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a recorded call with other tensors, by the identity of those that they stand for.

    `Node.arguments.fill_in`: `keras.models.clone_model(call_function=...)` passes the operation and not the call, so
    that one call of a shared layer could not be changed alone.
    """
    args, kwargs = node.arguments.fill_in(tensors)
    return args, kwargs


def copied_operation(operation: Any) -> Any:
    """Return a copy of an operation of `keras.ops` that no graph calls.

    `_inbound_nodes`, `_outbound_nodes`: `from_config` raises where an argument cannot be written to a config, as the
    operands of `einsum` or an array.
    """
    new = copy.copy(operation)
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def layers_in(layer: Any) -> list[Any]:
    """Return a layer and all layers inside, in the order in which they were made.

    `_flatten_layers`: only models have public `layers`; a wrapper or a layer of a user's has none.
    """
    return list(layer._flatten_layers())


def copy_remat_mode(old: Any, new: Any) -> None:
    """Make a new layer recompute its activations if the old layer does.

    `_remat_mode`: `keras.RematScope` sets the mode of the layers that are made in it; nothing public reads the mode.
    """
    new._remat_mode = old._remat_mode


def output_shape_of(layer: Any) -> Any:
    """Return the argument `output_shape` of a `Lambda` layer.

    `Lambda._output_shape`: `get_config` gives a function as its byte code, from which Keras refuses to make a layer.
    """
    return layer._output_shape


def functional_class(model: Any) -> type:
    """Return the class of models with a graph, of which `model` is an instance.

    `Functional`: a `keras.Model` with a graph becomes one, and there is no public name to compare its methods with.
    """
    return next(c for c in type(model).__mro__ if c.__name__ == "Functional" and c.__module__.startswith("keras."))


@contextmanager
def without_values() -> Iterator[Any]:
    """Give a stateless scope in which variables are made without values: a network is as large as its file.

    `global_state`: Keras lists variables without values to give them values when the scope ends, and
    `initialize_variables=False` leaves them in the list, for the next scope to do so.
    """
    pending = global_state.get_global_attribute("uninitialized_variables")
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        global_state.set_global_attribute("uninitialized_variables", pending)
