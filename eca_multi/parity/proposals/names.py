"""What the names of weights say, in the words of all frameworks."""

import re
from collections import Counter
from dataclasses import dataclass

KINDS = {
    **dict.fromkeys(("weight", "kernel", "embedding", "embeddings", "scale", "gamma", "w"), "weight"),
    **dict.fromkeys(("bias", "beta", "b"), "bias"),
    **dict.fromkeys(("mean",), "mean"),
    **dict.fromkeys(("var", "variance"), "variance"),
}
WORDS = {
    **dict.fromkeys(("q", "wq"), "query"),
    **dict.fromkeys(("k", "wk"), "key"),
    **dict.fromkeys(("v", "wv"), "value"),
    **dict.fromkeys(("fc", "linear", "lin"), "dense"),
    **dict.fromkeys(("bn", "ln", "gn", "batchnorm", "layernorm", "normalization", "batch", "rmsnorm"), "norm"),
    **dict.fromkeys(("attn", "mha", "attention"), "attention"),
    **dict.fromkeys(("output", "o"), "out"),
    **dict.fromkeys(("blocks", "layers", "layer", "h"), "block"),
    **dict.fromkeys(("embedding", "embeddings", "wte"), "embed"),
    **dict.fromkeys(("hh", "recurrent"), "recurrent"),
    **dict.fromkeys(("downsample", "shortcut"), "projection"),
    **dict.fromkeys(("ih",), "entering"),
}
_SILENT = {"params", "batch", "stats", "running", "moving", "l", "proj", "self", "model", "module"}
_GATE = re.compile(r"([ih])([ifgorzn])_?")
ORDERS = (("query", "key", "value"), ("i", "f", "g", "o"), ("r", "z", "n"))  # of parts in one fused weight of torch


@dataclass(frozen=True)
class Weight:
    """A weight with what its name says.

    Attributes:
        path: Its name in the model.
        shape: Its shape.
        kind: "weight", "bias", "mean" or "variance"; "" where the name does not say it.
        words: The words of the name without the kind.
        numbers: The numbers of the name in their order.
        part: Which part of a fused weight it would be: "query", "i", or "".
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    words: tuple[str, ...]
    numbers: tuple[int, ...]
    part: str

    @property
    def family(self) -> tuple[object, ...]:
        """What weights have in common that may be parts of one."""
        return self.kind, self.shape, tuple(w for w in self.words if w != self.part), self.numbers

    @property
    def is_table(self) -> bool:
        """Whether it looks like an embedding, whose axes no framework turns round."""
        return "embed" in re.split(r"\W+", self.path.lower()) or "embedding" in self.path.lower()


def weight(path: str, shape: tuple[int, ...]) -> Weight:
    """Read a name.

    Example:
        >>> weight("blocks.3.attn.q.weight", (8, 8)).part, weight("params/Conv_0/kernel", (3, 3, 1, 8)).words
        ('query', ('conv',))
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path)
    tokens = [token.lower() for token in re.split(r"[\W_]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", text) if token]
    tokens = re.sub(r"\b(conv\w*?|pool\w*?|norm) [123] d\b", r"\1", " ".join(tokens)).split()
    kind = next((KINDS[token] for token in reversed(tokens) if token in KINDS and token not in ("w", "b")), "")
    kind = kind or next((KINDS[token] for token in reversed(tokens) if token in KINDS), "")
    words, part = [], ""
    for token in tokens:
        if token.isdigit() or token in _SILENT or (token in KINDS and KINDS[token] == kind):
            continue
        if gate := _GATE.fullmatch(token):
            words += ["entering" if gate[1] == "i" else "recurrent", gate[2]]
            part = gate[2]
            continue
        words.append(WORDS.get(token, token))
        if words[-1] in ORDERS[0]:
            part = words[-1]
    return Weight(path, shape, kind, tuple(words), tuple(int(t) for t in tokens if t.isdigit()), part)


def likeness(one: Weight, other: Weight) -> float:
    """Return how much two names have in common: 0 for nothing, 3 for the same words and numbers."""
    ours, theirs = Counter(one.words), Counter(other.words)
    union = sum((ours | theirs).values())
    words = sum((ours & theirs).values()) / union if union else 1.0
    return 2 * words + (one.numbers == other.numbers)
