"""Find the state dict in the content of a file, and the facts beside it."""

from typing import Any

from eca_multi.checkpoints.errors import CheckpointError

from .file import TorchFile
from .values import Other, Pickled

# Training scripts keep the weights under these keys, beside an optimizer's state; in the order of preference.
KEYS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
OURS = "eca_multi"  # the key of the metadata that we write
_SHOWN = 20  # of a file's keys in a message
_LONGEST_FACT = 200  # characters


def find_state_dict(content: Any, key: str | None, name: str) -> tuple[dict[str, Any], str]:
    """Return the state dict in a file's content, and its key, "" at the top; raise CheckpointError if there is none.

    `key` is the only place to look at; None looks at the top and under KEYS. The error names the file by `name`.
    """
    places = (key,) if key is not None else ("", *KEYS)
    for place in places:
        inner = _inside(content, place)
        if isinstance(inner, dict) and inner and all(_is_entry(*item) for item in inner.items()):
            return inner, place
    held = sorted(map(str, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"the checkpoint must hold a state dict of tensors at {' or '.join(repr(place) for place in places)}. "
        f"Received: {name!r} with {held}. Pass key with its place, for example 'model' or 'ema.model'."
    )


def find_facts(file: TorchFile, key: str) -> dict[str, str]:
    """Return as texts the numbers and words beside the weights (epoch, accuracy), and the metadata that we wrote."""
    if not key or not isinstance(file.content, dict):
        return {}
    facts = {"key": key}
    for name, value in file.content.items():
        if isinstance(name, Other):  # a key that is neither text nor number
            continue
        if isinstance(value, Pickled) and value.shape in ((), (1,)):
            value = file.tensor(str(name), value).load().item()
        if isinstance(value, str | int | float) and len(str(value)) <= _LONGEST_FACT:
            facts[str(name)] = str(value)
    ours = file.content.get(OURS)
    if isinstance(ours, dict):
        facts |= {name: text for name, text in ours.items() if isinstance(name, str) and isinstance(text, str)}
    return facts


def _inside(content: Any, key: str) -> Any:
    """Return what a key names: an entry "model", an entry "ema.model", or the entry "model" of the entry "ema"."""
    if not key or not isinstance(content, dict):
        return None if key else content
    if key in content:
        return content[key]
    outer, _, inner = key.partition(".")
    return _inside(content.get(outer), inner) if inner else None


def _is_entry(name: Any, value: Any) -> bool:
    """Whether a name and a value can be an entry of a state dict: a tensor, sparse or without values included."""
    is_tensor = isinstance(value, Pickled) or (isinstance(value, Other) and value.what.startswith("torch._utils."))
    return isinstance(name, str) and is_tensor
