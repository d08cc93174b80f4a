"""What an error says of names: the first of many, and the one that is nearest to a misspelt one."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

_SHOWN = 8  # names in one line


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence with the name that is nearest to a misspelt one, or "".

    Example:
        >>> did_you_mean("conv.wieght", ["conv.weight", "conv.bias"])
        " Did you mean 'conv.weight'?"
    """
    near = get_close_matches(name, names, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def listed(names: Collection[str]) -> str:
    """Return the first names in one line, and how many more there are."""
    rest = len(names) - _SHOWN
    return (", ".join([*names][:_SHOWN]) or "none") + (f" and {rest} more" if rest > 0 else "")
