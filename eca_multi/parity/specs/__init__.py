"""The specifications that come with the package, and finding one of the user's."""

from importlib import import_module
from pathlib import Path
from typing import Any

from eca_multi.parity._axes import SpecError
from eca_multi.parity.loading import load_module
from eca_multi.parity.spec import Spec

SHIPPED = {
    "eca": "Efficient Channel Attention, this package's own",
}


def find_spec(wanted: "Spec | str") -> tuple[Spec, str]:
    """Return a specification and where it comes from.

    Args:
        wanted: A `Spec`; the name of a shipped one; or "file.py", "file.py:NAME", where a single `Spec` needs no name.

    Raises:
        SpecError: If there is none.
    """
    if isinstance(wanted, Spec):
        return wanted, wanted.name
    if wanted in SHIPPED:
        return import_module(f"eca_multi.parity.specs.{wanted}").SPEC, wanted
    place, _, name = wanted.partition(".py:")
    place = f"{place}.py" if name else place
    if not place.endswith(".py"):
        raise SpecError(f"spec must be one of {', '.join(SHIPPED)}, or file.py:NAME. Received: {wanted!r}.")
    if not Path(place).is_file():
        raise SpecError(f"spec {wanted!r} must name an existing file. Received: {place!r}.")
    module = load_module(place)
    found: dict[str, Any] = {key: value for key, value in vars(module).items() if isinstance(value, Spec)}
    if name and name not in found:
        raise SpecError(f"{place} must hold the Spec {name!r}. It has: {', '.join(found) or 'none'}.")
    if not name and len(found) != 1:
        raise SpecError(
            f"{place} must hold one Spec, or say which: {place}:NAME. It has: {', '.join(found) or 'none'}."
        )
    return found[name or next(iter(found))], wanted
