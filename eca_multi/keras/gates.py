"""Record the gates of a Keras network, in `fit` too, and find the ECAs that do nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from eca_multi._canonical import CANONICAL_NAME
from eca_multi.gates.errors import nested, nothing_recorded, without_values
from eca_multi.gates.layer import LayerGates, options_of
from eca_multi.gates.prune import THRESHOLD, PrunePlan, check_gates, check_threshold, no_inputs, plan_pruning
from eca_multi.gates.record import GateRecord, check_raw
from eca_multi.surgery.errors import UnsupportedModelError, no_eca

from ._backends import BACKEND, is_traced, to_host, wait_for_host
from ._private import in_stateless_scope, layers_in
from .functional import eca
from .layers import ECA, _full_mask
from .surgery._find.check import check_model
from .surgery._find.graph import Network
from .surgery._find.observe import run
from .surgery._wrap.installed import InsertedECA, installed_layers
from .weights import to_canonical

REMEDY = "Call the network, or its fit, evaluate or predict, within the context; code that tf.function or jax.jit has "
REMEDY += "compiled before does not ask again."
COMPILED = ("train_function", "test_function", "predict_function")
RECORDED: set[int] = set()  # ids of layers


@contextmanager
def record_gates(model: Any, *, raw: int = 0) -> Iterator[GateRecord]:
    """Record the gates of each ECA in a network while the context lasts.

    Within the context each ECA computes its gate once more; outputs, gradients and variables stay as they are. `fit`,
    `evaluate` and `predict` run eagerly in it, and go on with the functions that they had compiled after it.

    Args:
        model: With ECA layers: inserted ones, those of our networks, and those that its author wrote into it.
        raw: How many rows (samples, or kept positions of samples) of each layer to keep beside the statistics.

    Yields:
        The record, which grows with each call. `with gates.label(y): model(x)` gives the samples of a call classes.

    Raises:
        TypeError: If the model is none. NoSiteError: If there is no ECA in the network.
        ValueError: If its gates are being recorded already, if no ECA was called, or if labels do not fit a call.

    Example:
        >>> import keras, numpy as np
        >>> from eca_multi.keras import ECA, record_gates
        >>> model = keras.Sequential([keras.Input((5, 5, 3)), keras.layers.Conv2D(8, 3), ECA(gate="2sigmoid",
        ...                           init="identity", name="eca")])
        >>> with record_gates(model) as gates:
        ...     y = model(np.ones((2, 5, 5, 3)))
        >>> gates["eca"].mean
        array([1., 1., 1., 1., 1., 1., 1., 1.])
    """
    layers = _layers(model)
    if any(id(layer) in RECORDED for layer in layers.values()):
        raise nested()
    record = GateRecord("keras", model.name, raw=raw)
    record.wait = wait_for_host
    with ExitStack() as stack:
        stack.enter_context(_eagerly(model))
        for path, layer in layers.items():
            RECORDED.add(id(layer))
            stack.callback(RECORDED.discard, id(layer))
            stack.enter_context(_called_by(layer, partial(_record, record, path, layer)))
        yield record
        record.settle()
        if not record:
            raise nothing_recorded(tuple(layers), REMEDY)
        for path, known in record.items():
            known.kernel = _kernel(layers[path])


class GateRecorder(keras.callbacks.Callback):
    """Records the gates of a network on given data at the end of each epoch of `fit`.

    Args:
        x, y: An array of inputs, and labels or None; or, as x, batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`
            or a list whose items are inputs or (inputs, labels).
        batch_size: Of arrays.
        raw: As for `record_gates`.

    Attributes:
        records: One `GateRecord` for each epoch.

    Example:
        >>> import keras, numpy as np
        >>> from eca_multi.keras import ECA, GateRecorder
        >>> model = keras.Sequential([keras.Input((5, 5, 3)), ECA(name="eca"), keras.layers.Flatten()])
        >>> model.compile("sgd", "mse")
        >>> x = np.ones((4, 5, 5, 3), "float32")
        >>> recorder = GateRecorder(x, [0, 1, 0, 1])
        >>> _ = model.fit(x, np.zeros((4, 75), "float32"), epochs=2, verbose=0, callbacks=[recorder])
        >>> [record["eca"].count for record in recorder.records]
        [4, 4]
    """

    def __init__(self, x: Any, y: Any = None, *, batch_size: int = 32, raw: int = 0) -> None:
        super().__init__()
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.raw = check_raw(raw)
        self.records: list[GateRecord] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if BACKEND == "jax":  # there `fit` holds the weights until it ends
            self.model.jax_state_sync()
        with record_gates(self.model, raw=self.raw) as gates:
            for inputs, labels in self._batches():
                with nullcontext() if labels is None else gates.label(labels):
                    self.model(inputs, training=False)
        self.records.append(gates)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        if hasattr(self.x, "shape"):
            for start in range(0, len(self.x), self.batch_size):
                part = slice(start, start + self.batch_size)
                yield self.x[part], None if self.y is None else self.y[part]
            return
        length = len(self.x) if isinstance(self.x, keras.utils.PyDataset) else None  # it is indexed, and never ends
        for batch in self.x if length is None else (self.x[number] for number in range(length)):
            inputs, labels = (*batch, None)[:2] if isinstance(batch, tuple) else (batch, None)
            yield inputs, None if labels is None else ops.convert_to_numpy(labels)


def prune_plan(
    model: Any, gates: Mapping[str, LayerGates], *, threshold: float = THRESHOLD, example_inputs: Any = None
) -> PrunePlan:
    """Find the ECAs whose gates stay near one number, and measure how the outputs change without them.

    `remove_eca` takes the gate away: where it was the constant c, x * c becomes x. The plan therefore holds two
    changes of the outputs for each ECA: without it, and with its constant in its place, as if it were folded into the
    layer before. The network runs in inference and is not changed.

    Args:
        model: The network.
        gates: What `record_gates` gave for it.
        threshold: The largest distance of a gate from the layer's constant.
        example_inputs: What the network is called with: an array, or a list or dict of several inputs.

    Returns:
        The plan; `remove_eca(model, include=plan.paths)` carries it out.

    Raises:
        TypeError, ValueError: If an argument is invalid, or the record is of another network.

    Example:
        >>> import keras, numpy as np
        >>> from eca_multi.keras import insert_eca, prune_plan, record_gates
        >>> plain = keras.Sequential([keras.Input((5, 5, 3)), keras.layers.Conv2D(8, 3, name="conv")])
        >>> model, x = insert_eca(plain, "conv"), np.ones((2, 5, 5, 3))
        >>> with record_gates(model) as gates:
        ...     y = model(x)
        >>> prune_plan(model, gates, example_inputs=x).paths
        ('conv',)
    """
    layers = _layers(model)
    check_gates(gates, tuple(layers))
    threshold = check_threshold(threshold)
    if example_inputs is None:
        raise no_inputs()
    inserted = [path for path, layer in layers.items() if _is_removable(layer)]
    return plan_pruning(gates, inserted, threshold, partial(_outputs, model, layers, example_inputs))


def _layers(model: Any) -> dict[str, ECA]:
    """Return the ECAs by path: of an inserted one its site's, of one inside of a user's layer its kernel's."""
    if not isinstance(model, keras.Model):
        check_model(model)  # it says what is expected
    try:
        check_model(model)
        network = Network(model)
    except UnsupportedModelError:  # a subclass of Model without a graph: its layers can be listed all the same
        network = None
    paths: dict[int, str] = {}
    if network is not None:
        paths = {id(layer): entry.path for layer, entry in installed_layers(network)}
        paths = {id(op): network.path(op) for op in network.leaves() if isinstance(op, ECA)} | paths
    found: dict[str, ECA] = {}
    for layer in {id(layer): layer for layer in layers_in(model) if isinstance(layer, ECA)}.values():
        path = paths.get(id(layer)) or (layer.kernel.path.rpartition("/")[0] if layer.built else layer.name)
        while path in found:
            path += "'"
        found[path] = layer
    if not found:
        raise no_eca(type(model).__name__)
    return found


def _is_removable(layer: ECA) -> bool:
    return isinstance(layer, InsertedECA) and layer.action != "replace"  # an SE block is gone


def _kernel(layer: ECA) -> np.ndarray:
    return np.asarray(to_canonical(layer)[CANONICAL_NAME], np.float64)


@contextmanager
def _eagerly(model: Any) -> Iterator[None]:
    """Let fit, evaluate and predict run eagerly, and put back what they have compiled."""
    functions = {name: getattr(model, name, None) for name in COMPILED}
    eagerly = model.run_eagerly
    for name in functions:
        setattr(model, name, None)
    model.run_eagerly = True
    try:
        yield
    finally:
        model.run_eagerly = eagerly
        for name, function in functions.items():
            setattr(model, name, function)


@contextmanager
def _called_by(layer: ECA, note: Callable[..., Any]) -> Iterator[None]:
    """Let `note` make a layer's calls: it gets the layer's own call, and the call's arguments."""
    object.__setattr__(layer, "call", partial(note, layer.call))
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


def _record(
    record: GateRecord, path: str, layer: ECA, call: Callable[..., Any], x: Any, *args: Any, **kwargs: Any
) -> Any:
    """Make a call, and give its gate to the record."""
    y = call(x, *args, **kwargs)
    # A model is being made, or shapes are being found: with torch's tensors, which have values there.
    if isinstance(x, keras.KerasTensor) or (BACKEND == "torch" and in_stateless_scope()):
        return y
    given = dict(zip(("mask", "residual", "inputs_mask"), args, strict=False)) | kwargs
    mask = given.get("inputs_mask") if given.get("mask") is None else given["mask"]
    still, kernel = ops.stop_gradient(x), ops.stop_gradient(ops.convert_to_tensor(layer.kernel))
    options = options_of(layer) | {"channel_axis": layer.channel_axis}
    _, g = eca(still, kernel, mask=_full_mask(mask, x), return_gate=True, **options)
    facts = LayerGates.of(path, layer, g.shape[1], np.zeros(layer.kernel.shape[0]), _is_removable(layer))
    if is_traced(g):
        to_host(lambda gate: record.receive(facts, np.asarray(gate, np.float64)), g)
        return y
    try:
        values = np.asarray(ops.convert_to_numpy(g), np.float64)
    except Exception as error:  # each backend has its own for a tensor of a graph
        raise without_values(path, type(x).__name__) from error
    record.add(facts, values)
    return y


def _outputs(
    model: Any, layers: Mapping[str, ECA], example_inputs: Any, constants: Mapping[str, float]
) -> list[np.ndarray]:
    """Return the floating-point outputs with some ECAs exchanged for constants."""
    with ExitStack() as stack:
        for path, constant in constants.items():
            stack.enter_context(_called_by(layers[path], partial(_exchanged, constant)))
        outputs = run(model, example_inputs)
    return [y.astype(np.float64) for y in outputs if y.dtype.kind == "f" or y.dtype.name == "bfloat16"]


def _exchanged(constant: float, call: Any, x: Any, mask: Any = None, residual: Any = None, **rest: Any) -> Any:
    """Return x * constant, plus the residual where there is one: what stands for an ECA that is taken out."""
    y = x if constant == 1.0 else ops.cast(x * constant, x.dtype)
    return y if residual is None else y + residual
