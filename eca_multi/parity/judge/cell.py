"""A cell: one tensor of one case in one dtype by one runner, in one check, with its verdict."""

from dataclasses import dataclass

from .compare import Judgement, Verdict


@dataclass(frozen=True)
class Cell:
    """The judgement of one tensor.

    `budget` is the kind of budget that the tensor was judged by, "" where there was no result to judge; `reason` says
    why then, and otherwise holds a note to the verdict. `cause` names the hypotheses under which the reference gives
    the runner's result, where the failure was explained. `blame` says whose fault a red tensor is (blame.py).
    """

    runner: str
    case: str
    dtype: str
    check: str
    tensor: str
    judgement: Judgement
    budget: str = ""
    reason: str = ""
    cause: str = ""
    blame: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    @property
    def green(self) -> bool:
        return self.verdict.green

    @property
    def fails(self) -> bool:
        """Whether the cell is not green, for a reason of its own: not that its adapter cannot do the check, nor
        the framework's rounding."""
        return not self.green and self.verdict not in (Verdict.UNSUPPORTED, Verdict.ROUNDING)

    @property
    def is_open_tap(self) -> bool:
        """Whether the cell is a tap that was judged without an answer: it is on the way to results, which have one."""
        return self.check == "taps" and self.verdict is Verdict.INCONCLUSIVE and bool(self.budget)

    @property
    def is_without_result(self) -> bool:
        """Whether the tensor was asked for and could not be judged: its runner raised, or the reference has died."""
        return self.verdict in (Verdict.ERROR, Verdict.INCONCLUSIVE) and not self.budget
