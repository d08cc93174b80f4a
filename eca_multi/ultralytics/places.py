"""Places in a YOLO network in plain words: "c2f", "after SPPF", "before Detect", "c3k2 in backbone"."""

import difflib
import re
from typing import Any

from torch import nn

from eca_multi.surgery.errors import NoSiteError
from eca_multi.surgery.patterns import is_list_of_texts
from eca_multi.surgery.request import KINDS
from eca_multi.torch import ECA

from .record import LAYERS

WORDS = re.compile(r"(?:(?P<side>after|before) +)?(?P<kind>\w+)(?: +in +(?P<section>backbone|head))?")


def where_of(network: Any, where: Any) -> Any:
    """Return `where` as `eca_multi.torch.insert_eca` takes it: words become the paths of the modules that they name.

    Raises:
        NoSiteError: If words name no module of the network.
    """
    if isinstance(where, str):
        return where if where in KINDS else _paths(network, where)
    if not is_list_of_texts(where):
        return where
    known = {path for path, _ in network.named_modules(remove_duplicate=False)}
    return [path for text in where for path in ([text] if text in known else _paths(network, text))]


def _paths(network: Any, text: str) -> list[str]:
    """The modules that words name, by path; the layers of the YAML are the modules `model.0`, `model.1` and so on."""
    modules = [(path, module) for path, module in network.named_modules() if path and not isinstance(module, ECA)]
    words = WORDS.fullmatch(text.strip())
    paths = []
    if words is not None:
        is_layer = words["side"] is not None
        places = [(LAYERS + str(i), layer) for i, layer in enumerate(network.model)] if is_layer else modules
        paths = [path for path, module in places if _is_called(module, words["kind"])]
        if words["side"] == "before":
            paths = [source for path in paths for source in _sources(network, path)]
        paths = [path for path in dict.fromkeys(paths) if words["section"] in (None, _section(network, path))]
    if not paths:
        raise _nothing(text, [type(module).__name__ for _, module in modules])
    return paths


def _is_called(module: nn.Module, word: str) -> bool:
    """Whether a word is a module's class, as it is written or in lower case."""
    name = type(module).__name__
    return word in (name, name.lower())


def _sources(network: Any, path: str) -> list[str]:
    """The layers whose output a layer takes."""
    layer = network.get_submodule(path)
    sources = layer.f if isinstance(layer.f, list) else [layer.f]
    return [LAYERS + str(layer.i + source if source < 0 else source) for source in sources]


def _section(network: Any, path: str) -> str:
    """The section of the YAML that holds a module: the numbers of the layers go on from the backbone to the head."""
    number = int(path.removeprefix(LAYERS).partition(".")[0])
    return "backbone" if number < len(network.yaml["backbone"]) else "head"


def _nothing(text: str, classes: list[str]) -> NoSiteError:
    names = list(dict.fromkeys(name for name in classes if not hasattr(nn, name)))
    lower = [name.lower() for name in names]
    said = text.lower().split()
    meant = [next(iter(difflib.get_close_matches(word, lower, 1)), word) for word in said]
    hint = f"Did you mean {' '.join(meant)!r}?" if meant != said else f"The network has {', '.join(names)}."
    return NoSiteError(
        f"where must be one of {', '.join(map(repr, KINDS))}, a path, a class, or words such as 'after SPPF', "
        f"'before Detect' and 'c2f in backbone'. Received: {text!r}, which names no module. {hint}"
    )
