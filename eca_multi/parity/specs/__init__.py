"""The specifications that come with the package, and the search for a user's."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from eca_multi.parity.define.axes import SpecError
from eca_multi.parity.define.loading import load_module
from eca_multi.parity.define.spec import Spec

SHIPPED = {
    "eca": "Efficient Channel Attention, this package's own",
    "squeeze_excite": "Squeeze-and-Excitation",
    "layer_norm": "LayerNorm; DEFAULTS: each framework's own eps; FAST_VARIANCE: Flax's own variance",
    "batch_norm": "BatchNorm and its running statistics; DEFAULTS: eps, momentum and n - 1",
    "conv2d": "a 3x3 convolution of stride 2; SAME: each framework's own padding",
    "attention": "multi-head self-attention with a mask",
    "mlp": "a small network trained on digits",
    "networks": "whole networks on photographs, one of each kind; ALL: every network",
    "bf16_gate": "a gradient that JAX adds up in bfloat16; REPAIRED; BIAS: the same in a Dense layer",
}


def find_spec(wanted: "Spec | str") -> tuple[Spec, str]:
    """Return a specification and its source.

    Args:
        wanted: A `Spec`; the name of a shipped one, "layer_norm" or "layer_norm:DEFAULTS"; or "file.py:NAME", or
            "file.py" of a file with a single `Spec`.

    Raises:
        SpecError: If there is no such specification.
    """
    if isinstance(wanted, Spec):
        return wanted, wanted.name
    shipped, _, name = wanted.partition(":")
    if shipped in SHIPPED:
        return _named(import_module(f"eca_multi.parity.specs.{shipped}"), shipped, name or "SPEC"), wanted
    place, _, name = wanted.partition(".py:")
    place = f"{place}.py" if name else place
    if not place.endswith(".py"):
        raise SpecError(f"spec must be one of {', '.join(SHIPPED)}, or file.py:NAME. Received: {wanted!r}.")
    if not Path(place).is_file():
        raise SpecError(f"spec {wanted!r} must name an existing file. Received: {place!r}.")
    return _named(load_module(place), place, name), wanted


def _named(module: ModuleType, place: str, name: str) -> Spec:
    specs = {key: value for key, value in vars(module).items() if isinstance(value, Spec)}
    have = ", ".join(specs) or "none"
    if name and name not in specs:
        raise SpecError(f"{place} must hold the Spec {name!r}. It has: {have}.")
    if not name and len(specs) != 1:
        raise SpecError(f"{place} must hold one Spec, or say which: {place}:NAME. It has: {have}.")
    return specs[name or next(iter(specs))]
