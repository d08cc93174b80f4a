"""Where a failure begins: the chain of named values from input to gradients, and the first that fails by itself."""

from dataclasses import dataclass

from .reading import Row, mapping, read, rows
from .results import OPEN
from .wording import plain, value_text, words

_UNMEASURED = OPEN | {"", "MISSING_TAP"}


@dataclass(frozen=True)
class Tap:
    """One named value: the error that arrives and the error that the step adds, as shares of the budget."""

    name: str
    direction: str
    propagated: float | None
    isolated: float | None
    verdict: str

    @property
    def is_measured(self) -> bool:
        """Whether a share without a number means an infinity, a NaN or another shape."""
        return self.verdict not in _UNMEASURED

    @property
    def arrow(self) -> str:
        return {"forward": "↓ ", "backward": "↑ "}.get(self.direction, "")


@dataclass(frozen=True)
class Localised:
    """Where the failure of one runner begins; the fields are those of the JSON."""

    runner: str
    dtype: str
    case: str
    line: str
    culprit: str
    explanation: str
    replay: str
    sizes: str
    taps: tuple[Tap, ...]

    @property
    def where(self) -> str:
        return " · ".join(part for part in (self.runner, self.dtype, self.case) if part)

    @property
    def label(self) -> str:
        first = f"first divergence {self.culprit or 'none by itself'}"
        return f"Chain of {len(self.taps)} values, {self.where}: {first}"

    @property
    def rows(self) -> list[list[str]]:
        return [[t.arrow + t.name, plain(t.propagated), plain(t.isolated), words(t.verdict)] for t in self.taps]


def read_localised(row: Row) -> Localised:
    sizes = ", ".join(f"{axis}={value_text(size)}" for axis, size in mapping(row, "shrunk").items())
    taps = tuple(read(Tap, {"name": tap.get("tap"), **tap}) for tap in rows(row, "chain"))
    return read(Localised, row, sizes=sizes, taps=taps)
