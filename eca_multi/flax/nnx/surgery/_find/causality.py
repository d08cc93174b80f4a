"""What shows that an nnx network looks at no later position, or at one frame at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import nnx

from eca_multi.flax._jaxpr.proof import evidence_of, proofs
from eca_multi.flax._probe import probed
from eca_multi.flax._run import is_abstract, split_arrays, split_inputs
from eca_multi.surgery.causality import Evidence, grouped
from eca_multi.surgery.entry import ECAEntry

from .classes import CONVS
from .network import Network
from .watch import watched

BACK, AHEAD, NOWHERE = "back", "ahead", "nowhere"


def evidence(network: Network, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Return the evidence about the sites of these ECAs: what the run's data flow proves, else what the probe sees.

    Without a run the layers themselves tell.
    """
    if network.run is None:
        return _static(network, entries)
    calls = network.run.calls
    shapes = {path: calls[path].outputs[0] or () for path in calls}
    batch_norms = [place.path for place in network.places if isinstance(place.module, nnx.BatchNorm)]
    proved = proofs(network.run.flow, settled=batch_norms)
    if proved or is_abstract((nnx.state(network.model), network.example_inputs)):
        return evidence_of(proved, entries, shapes)
    fill, arrays = split_arrays(split_inputs(network.example_inputs))
    return probed(partial(watched, network.model, fill, network.method), arrays, network.run.flow, entries)


def _static(network: Network, entries: Sequence[ECAEntry]) -> tuple[Evidence, ...]:
    """Take the network as causal along an axis if each of its layers that looks beside a position looks back alone."""
    layers = [(place.path, place.module) for place in network.places if isinstance(place.module, (*CONVS, nnx.RNN))]
    ranks = {_rank(layer) for _, layer in layers}
    looking_round = (nnx.Bidirectional, nnx.MultiHeadAttention)
    if len(ranks) != 1 or any(isinstance(place.module, looking_round) for place in network.places):
        return ()
    rank = ranks.pop()
    for place in range(rank - 2):
        looks = [(path, _look(layer, place)) for path, layer in layers]
        back = [path for path, look in looks if look == BACK]
        if back and all(look in (BACK, NOWHERE) for _, look in looks):
            layer = network.at[back[0]].module
            source = f"{_named(layer)} at {back[0]}, and no layer that looks ahead"
            return grouped([(entry.path, "causal", place, rank) for entry in entries], source)
    return ()


def _rank(layer: Any) -> int:
    return 3 if isinstance(layer, nnx.RNN) else len(tuple(layer.kernel_size)) + 2


def _look(layer: Any, place: int) -> str:
    """Return where a layer looks from a position, along one of the spatial axes."""
    if isinstance(layer, nnx.RNN):
        return AHEAD if layer.reverse else BACK
    width, stride = tuple(layer.kernel_size)[place], _of_axis(layer.strides, place)
    if isinstance(layer, nnx.ConvTranspose) or stride != 1:
        return AHEAD
    before = (width - 1) * _of_axis(layer.kernel_dilation, place)
    padding = layer.padding
    if padding == "CAUSAL":  # of one spatial axis
        padding = [(before, 0)]
    if width == 1:
        return NOWHERE
    is_listed = isinstance(padding, list | tuple) and len(padding) == len(tuple(layer.kernel_size))
    return BACK if is_listed and padding[place] in ((before, 0), [before, 0]) else AHEAD


def _of_axis(value: Any, place: int) -> int:
    return 1 if value is None else value if isinstance(value, int) else tuple(value)[place]


def _named(layer: Any) -> str:
    return type(layer).__name__ if isinstance(layer, nnx.RNN) else f"{type(layer).__name__}(padding={layer.padding!r})"
