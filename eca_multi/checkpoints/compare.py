"""Compare a checkpoint's tensors with those of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eca_multi._printable import printable
from eca_multi.networks import Tensor

Shapes = Mapping[str, Sequence[int]]
_SHOWN = 3  # names of each list in an error; the report itself holds all


@dataclass(frozen=True)
class Report:
    """Canonical names of tensors, in four lists.

    Args:
        matched: In the checkpoint and in the network, with equal shapes.
        missing: In the network only.
        unexpected: In the checkpoint only.
        misshaped: In both, with different shapes: name, shape received, shape expected.
    """

    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def differences(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    @property
    def fits(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        return self.text(None)

    def text(self, shown: int | None = _SHOWN) -> str:
        """Return one line for each list that is not empty, with its first `shown` entries; None shows all."""
        misshaped = [f"{name} {received}, expected {expected}" for name, received, expected in self.misshaped]
        lists = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": misshaped}
        lines = [f"{len(self.matched)} matched"]
        for title, entries in lists.items():
            if entries:
                more = f" and {len(entries) - shown} more" if shown is not None and len(entries) > shown else ""
                lines.append(f"{len(entries)} {title}: {printable(', '.join(entries[:shown]))}{more}")
        return "\n".join(lines)


def compare(listed: Mapping[str, Tensor], shapes: Shapes) -> Report:
    """Compare a checkpoint's shapes with a network's tensors, both by canonical name.

    An ECA kernel may have torch's shape (1, 1, k) in the checkpoint.
    """
    matched, misshaped = [], []
    for name, tensor in listed.items():
        if name in shapes:
            received = tuple(shapes[name])
            if received == tensor.shape or (tensor.kind == "eca" and received == (1, 1, *tensor.shape)):
                matched.append(name)
            else:
                misshaped.append((name, received, tensor.shape))
    missing = tuple(name for name in listed if name not in shapes)
    unexpected = tuple(name for name in shapes if name not in listed)
    return Report(tuple(matched), missing, unexpected, tuple(misshaped))
