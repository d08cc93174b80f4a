"""Taps on sub-layers, which an adapter names by path."""

from collections.abc import Iterable
from typing import Any

from eca_multi.parity.define.adapters import Adapter
from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.taps import tap


def no_sublayer(adapter: Adapter, path: str, have: Iterable[str]) -> SpecError:
    """Return the error for a tap on a sub-layer that the layer does not have."""
    return SpecError(
        f"the taps of {type(adapter).__name__} name the sub-layer {path!r}, which the layer does not have: "
        f"{', '.join(filter(None, have)) or 'none'}."
    )


def tap_output(name: str, output: Any) -> Any:
    """Tap the output of a sub-layer, or the first of several: a recurrent layer returns its sequence first."""
    if type(output) in (tuple, list):
        return type(output)((tap_output(name, output[0]), *output[1:]))
    return tap(name, output)
