"""How many channels the output of a module has and where, as classes and the data flow say: no run is needed."""

from collections.abc import Callable, Mapping

from eca_multi.surgery.candidate import Place
from eca_multi.torch.layers import ECA
from eca_multi.torch.surgery._wrap.sites import parent_of

from .axis import lengths
from .block import Block
from .classes import axis_of, channels_of, convolutions, is_passing, keeps_channels
from .flow import ADDS
from .places import children, join
from .residual import CHANGED, source_of
from .squeeze import is_squeeze, squeezed_channels

Said = tuple[int | None, int | None]  # the number of the channels, and their axis


class Channels:
    """What the modules of a network say of their channels; each is asked once.

    Args:
        at: The modules of the network by each of their paths.
        block: Returns a module with its data flow by its path, or None where that is unknown.
    """

    def __init__(self, at: Mapping[str, Place], block: Callable[[str], Block | None]) -> None:
        self._at = at
        self._block = block
        self._said: dict[str, Said] = {}

    def of(self, place: Place) -> Said:
        """Return what a module says of its channels; for a module of modules, the one that makes the output says it."""
        if place.path not in self._said:
            self._said[place.path] = (None, None)  # for a module that is reached again on the way
            self._said[place.path] = self._say(place)
        return self._said[place.path]

    def _say(self, place: Place) -> Said:
        base = place.module
        if channels_of(base) is not None or axis_of(base) is not None:
            return channels_of(base), axis_of(base)
        if keeps_channels(base) or is_passing(base):
            return self._before(place)
        if not children(base):
            scaled = lengths(base)  # a layer scale
            return (scaled[0], self._before(place)[1]) if len(scaled) == 1 else (None, None)
        block = self._block(place.path) if not isinstance(base, ECA) else None
        if block is None:
            return None, None
        if is_squeeze(block.flow, base):
            return squeezed_channels(base), self._before(place)[1]
        if len(block.flow.outputs) != 1:
            return None, None
        return self._by(block, before_activations(block, block.flow.outputs[0]))

    def _before(self, place: Place) -> Said:
        """Return the channels of the input of a module that keeps them, as far as the data flow shows the input."""
        above, name = parent_of(place.path)
        block = self._block(above)
        calls = block.flow.calls_of(name) if block is not None else []
        if block is None or not calls or len(block.inputs(calls[0])) != 1:
            return None, None
        return self._by(block, block.inputs(calls[0])[0])

    def _by(self, block: Block, number: int) -> Said:
        if block.step(number).kind == "function" and block.step(number).name in ADDS:
            return next((said for i in block.inputs(number) if (said := self._by(block, i))[0]), (None, None))
        source = source_of(block, number)
        if set(source.notes) & CHANGED:
            return None, None
        if source.is_input and not source.layout and block.path:  # a gate of an author's own, as in CBAM
            return self._before(self._at[block.path])
        if not source.path:
            return None, None
        channels, axis = self.of(self._at[join(block.path, source.path)])
        return channels, 1 if source.layout and axis == -1 else axis


def before_activations(block: Block, number: int) -> int:
    """Step back over activations, which have no channels of their own."""
    while True:
        module = block.of(number)
        is_blank = module is not None and not any(True for _ in module.parameters()) and not is_passing(module)
        if not is_blank or len(block.inputs(number)) != 1 or convolutions(block.module) == 0:
            return number
        number = block.inputs(number)[0]
