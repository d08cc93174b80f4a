"""What a load of weights leaves out: the paths in `except_for`."""

from collections.abc import Iterable, Sequence

from eca_multi._printable import printable

from .patterns import is_list_of_texts


def check_except_for(except_for: Sequence[str]) -> None:
    if not is_list_of_texts(except_for):
        raise TypeError(
            f"except_for must be a list of paths. Received: {printable(repr(except_for))}. Pass ['head'] for one path."
        )


def check_excepted(except_for: Sequence[str], keys: Iterable[str]) -> None:
    """Raise ValueError where a path of except_for names nothing."""
    keys = [str(key) for key in keys]
    unknown = [path for path in except_for if not any(is_excepted(key, [path]) for key in keys)]
    if unknown:
        raise ValueError(
            "except_for must name layers of the model or of the state. "
            f"Received: {printable(', '.join(unknown))}, which neither has. Print the keys of base_state(model)."
        )


def is_excepted(key: object, except_for: Sequence[str]) -> bool:
    """Whether the weight of this key belongs to a path: "head/kernel" to "head"."""
    return any(str(key) == path or str(key).startswith(f"{path}/") for path in except_for)
