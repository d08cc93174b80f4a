"""The recording of gates as one call in each framework, on the networks of surgery's twins; an oracle of the gates."""

from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import torch
from flax import linen, nnx
from numpy.lib.stride_tricks import sliding_window_view

from eca_multi import reference
from eca_multi.gates import GateRecord
from tests.support.surgery_twins import OWN, TWINS, Twin

RECORDERS = tuple(twin for twin in TWINS if twin.name in ("torch", "linen", "nnx"))
INSERTED = np.array([-0.75, 0.5, 0.25])  # the kernel of the inserted ECA


def network(twin: Twin, inserted: np.ndarray = INSERTED) -> Any:
    """Return the twin's network with an ECA of its author at `own`, and one of surgery at `conv`."""
    return twin.set_inserted(twin.insert(twin.net()), inserted)


def one_layer(twin: Twin, channels: int, rank: int, **options: Any) -> tuple[Any, str]:
    """Return a network that is one ECA, which no surgery put there, and its path."""
    if twin.name == "torch":
        return torch.nn.Sequential(twin.package.ECA(channels, 3, **options)), "0"
    if twin.name == "nnx":
        return nnx.Sequential(twin.package.ECA(channels, 3, rngs=nnx.Rngs(0), **options)), "layers.0"
    module = linen.Sequential([twin.package.ECA(3, **options)])
    return (module, module.init(jax.random.key(0), np.ones((1,) * (rank - 1) + (channels,)))), "layers_0"


def call(twin: Twin, net: Any, x: Any) -> Any:
    return net[0].apply(net[1], x) if twin.name == "linen" else net(x)


def compiled(twin: Twin, net: Any) -> Any:
    """Return what runs the network as its framework compiles it, and a count of what was compiled."""
    counts: list[int] = []
    if twin.name == "torch":

        def backend(graph: Any, inputs: Any) -> Any:
            counts.append(1)
            return graph.forward

        return torch.compile(net, backend=backend), counts
    if twin.name == "nnx":

        @nnx.jit
        def run(model: Any, x: Any) -> Any:
            counts.append(1)  # once a trace
            return model(x)

        return (lambda x: run(net, x)), counts
    raise NotImplementedError("a linen network has no state that could be changed")


def record(twin: Twin, net: Any, batches: Any, labels: Any = None, *, run: Any = None, raw: int = 0) -> Any:
    """Return the outputs for some batches, and the record; `run` is what to call instead of the network."""
    if twin.name == "linen":
        apply, gates = twin.package.record_gates(net[0]), GateRecord("linen", raw=raw)
        outputs = []
        for number, x in enumerate(batches):
            with nullcontext() if labels is None else gates.label(labels[number]):
                y, found = apply(net[1], x)
                found.into(gates)
            outputs.append(y)
        return outputs, gates
    with twin.package.record_gates(net, raw=raw) as gates:
        outputs = []
        for number, x in enumerate(batches):
            with nullcontext() if labels is None else gates.label(labels[number]):
                outputs.append((net if run is None else run)(x))
    return outputs, gates


def prune(twin: Twin, net: Any, gates: Any, **options: Any) -> Any:
    return twin.package.prune_plan(*twin.arguments(net), gates, **options)


def tensor(twin: Twin, x: np.ndarray) -> Any:
    """Take an array (N, *S, C) to the layout of the framework."""
    return torch.tensor(np.moveaxis(x, -1, 1).copy()) if twin.name == "torch" else x


def without_eca(twin: Twin) -> Any:
    if twin.name == "torch":
        return torch.nn.Conv2d(3, 3, 1)
    if twin.name == "nnx":
        return nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    return linen.Dense(3), {"params": {"kernel": np.ones((3, 3)), "bias": np.ones(3)}}


def classes_of(twin: Twin, net: Any) -> list[type]:
    """Return the classes of all modules; linen builds its modules in each call."""
    if twin.name == "torch":
        return [type(module) for module in net.modules()]
    if twin.name == "nnx":
        return [type(module) for _, module in nnx.iter_graph(net)]
    return [type(net[0])]


def is_changed(net: Any) -> bool:
    """Whether the layer `own` bears a trace of a recording."""
    return bool(getattr(net.own, "_forward_hooks", ())) or type(net.own).__name__ != "ECA"


def to_numpy(y: Any) -> np.ndarray:
    return np.asarray(y.detach() if hasattr(y, "detach") else y, np.float64)


def convolutions(twin: Twin, net: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the kernels (height, width, in, out) and biases of stem and conv, in float64."""
    if twin.name == "torch":
        found = [(to_numpy(one.weight).transpose(2, 3, 1, 0), to_numpy(one.bias)) for one in (net.stem, net.conv)]
    elif twin.name == "nnx":
        found = [(to_numpy(one.kernel[...]), to_numpy(one.bias[...])) for one in (net.stem, net.conv)]
    else:
        places = [net[1]["params"][name] for name in ("stem", "conv")]
        found = [(to_numpy(one["kernel"]), to_numpy(one["bias"])) for one in places]
    return found


def gates_of(twin: Twin, net: Any, x: Any, inserted: np.ndarray = INSERTED) -> dict[str, np.ndarray]:
    """Return the gates (N, C) of own and conv for the input of a twin, in NumPy's float64 alone."""
    x = to_numpy(x)
    x = x.transpose(0, 2, 3, 1) if twin.name == "torch" else x
    (stem, stem_bias), (conv, conv_bias) = convolutions(twin, net)
    own = reference.forward(_convolve(x, stem) + stem_bias, OWN, gate="2sigmoid", channel_axis=-1)
    behind = _convolve(own.y, conv) + conv_bias
    return {
        "own": own.gate,
        "conv": reference.forward(behind, inserted, gate="2sigmoid", channel_axis=-1).gate,
    }


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)
