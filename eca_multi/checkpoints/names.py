"""Translate the names in torch state dicts to canonical names."""

import re
from collections.abc import Iterable

# Prefixes that wrappers put before every name: DataParallel, torch.compile, training frameworks.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# The original calls the layer `eca`, or numbers it in MobileNetV2; timm calls it `se`, `attn` or `attn_last`.
_ECA = re.compile(r"(.*\.)(?:eca|se|attn|attn_last)\.conv\.weight$")
_NUMBERED = re.compile(r"(features\.\d+\.conv\.\d+)\.conv\.weight$")


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return {canonical name: name in the source}, without batch norm's counters `num_batches_tracked`.

    Raises ValueError if two tensors have one canonical name.
    """
    sources = [name for name in names if not name.endswith("num_batches_tracked")]
    cut = 0
    while prefix := _common_prefix(sources, cut):
        cut += len(prefix)
    translated: dict[str, str] = {}
    for source in sources:
        name = _canonical(source[cut:])
        if name in translated:
            raise ValueError(
                f"the checkpoint must hold each tensor once. Received: {translated[name]!r} and {source!r}, "
                f"both of which are {name!r}. Remove one of them."
            )
        translated[name] = source
    return translated


def _common_prefix(names: list[str], cut: int) -> str:
    return next((p for p in _PREFIXES if names and all(name.startswith(p, cut) for name in names)), "")


def _canonical(name: str) -> str:
    if match := _ECA.match(name):
        return f"{match[1]}eca.weight"
    if match := _NUMBERED.match(name):
        return f"{match[1]}.weight"
    return name
