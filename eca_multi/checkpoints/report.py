"""What of a checkpoint fits a network: every tensor is in one of four lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eca_multi._printable import printable
from eca_multi.networks import Tensor

Shapes = Mapping[str, Sequence[int]]
_SHOWN = 8  # of each list in a message; the report itself holds all


@dataclass(frozen=True)
class Report:
    """Canonical names of tensors, by how they fit.

    Args:
        matched: In the checkpoint and in the network, of the same shape.
        missing: In the network alone.
        unexpected: In the checkpoint alone.
        misshaped: In both; with the shape received and the one expected.
    """

    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        return self.text(None)

    def text(self, shown: int | None = _SHOWN) -> str:
        """Return one line per list; of each, the first `shown` entries, or all."""
        wrong = [f"{name} {received}, expected {expected}" for name, received, expected in self.misshaped]
        lists = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": wrong}
        lines = [f"{len(self.matched)} matched"]
        for title, entries in lists.items():
            if entries:
                more = f" and {len(entries) - shown} more" if shown is not None and len(entries) > shown else ""
                lines.append(f"{len(entries)} {title}: {printable(', '.join(entries[:shown]))}{more}")
        return "\n".join(lines)


def compare(listed: Mapping[str, Tensor], shapes: Shapes) -> Report:
    """Compare a checkpoint's shapes by canonical name with a network's tensors; an ECA kernel may be (1, 1, k)."""
    matched, misshaped = [], []
    for name, tensor in listed.items():
        if name in shapes:
            received = tuple(shapes[name])
            fits = received == tensor.shape or (tensor.kind == "eca" and received == (1, 1, *tensor.shape))
            if fits:
                matched.append(name)
            else:
                misshaped.append((name, received, tensor.shape))
    missing = tuple(name for name in listed if name not in shapes)
    unexpected = tuple(name for name in shapes if name not in listed)
    return Report(tuple(matched), missing, unexpected, tuple(misshaped))
