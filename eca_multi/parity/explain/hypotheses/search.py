"""The search for the cause of a failure: the hypotheses are tried on the reference, until the result matches.

A hypothesis changes the reference as it runs in float64. The hypothesis is claimed if the result that failed lies
within the budget of the changed reference, and nothing that agreed with the reference before disagrees now.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch

from eca_multi.parity.budget.errors import UNBOUNDED
from eca_multi.parity.budget.noise import budget
from eca_multi.parity.define.dtypes import U_ACC, rounding
from eca_multi.parity.define.tensor import Tensor
from eca_multi.parity.judge.compare import Judgement, judge
from eca_multi.parity.mutants.mode import ANY, WRITTEN_OUT, Call, Mutating

from .attention import FACTOR
from .cause import Cause
from .dropout import dropped
from .hypothesis import Hypothesis, Only, Seen
from .order_of_norm import NORMS
from .table import HYPOTHESES
from .trace import READS

K = TypeVar("K", bound=Hashable)
Run = Callable[[AbstractContextManager[Any]], Mapping[K, torch.Tensor]]
Known = Mapping[K, tuple[np.ndarray, np.ndarray]]

MOST_CALLS = 32  # of one operation that are tried one by one
EPS = "eps is "  # the beginning of hypotheses that differ in a value alone
CLOSER = 0.7  # of the distance to the reference: a changed one must be nearer than that to be worth its budget


def name_causes(
    run: Run[K],
    found: Mapping[K, Tensor],
    known: Known[K],
    target: K,
    *,
    dtype: str,
    c: float,
    seconds: float = 30.0,
    hypotheses: tuple[Hypothesis, ...] = HYPOTHESES,
) -> list[Cause]:
    """Return all hypotheses that explain why a result does not match the reference.

    Args:
        run: Called as run(changes): evaluates the PyTorch reference in float64, the layer itself within
            `with changes:`, and returns its tensors by name. Each call starts from the same weights, inputs and states.
        found: The results of the implementation that fails, by the same names.
        known: The unchanged reference and the error E of each of its tensors.
        target: The tensor that fails: the worst one, or that of the first stage that diverges.
        dtype: The dtype that the results were computed in.
        c: Where a result is allowed an error of c * E.
        seconds: The time after which no further hypothesis is tried.
        hypotheses: Those to try.

    Returns:
        The causes in the order of the hypotheses; none where `run` is not the reference of `known`, or the target does
        not fail.
    """
    search = _Search(run, found, known, target, dtype, c)
    if not search.is_sound():
        return []
    ends = time.monotonic() + seconds
    causes = list(search.dropouts())
    for hypothesis in hypotheses:
        if time.monotonic() > ends:
            break
        if not hypothesis.dtypes or dtype in hypothesis.dtypes:
            causes += search.claims(hypothesis, ends)
    return _gathered(causes)


def _gathered(causes: list[Cause]) -> list[Cause]:
    """Return each cause once, and all values of eps that match as one cause, the best first.

    A factor that says what it is, of n and n - 1, is not named as a constant one too.
    """
    once = list({cause.says: cause for cause in causes}.values())
    if any("n - 1" in cause.says for cause in once):
        once = [cause for cause in once if not cause.says.startswith(FACTOR)]
    alike = sorted((cause for cause in once if cause.says.startswith(EPS)), key=lambda cause: cause.share)
    if len(alike) < 2:
        return once
    values = [cause.says.removeprefix(EPS) for cause in alike]
    one = Cause(f"{EPS}{', '.join(values[:-1])} or {values[-1]}", alike[0].share)
    return [one, *(cause for cause in once if cause not in alike)]


class _Search:
    def __init__(
        self, run: Run[Any], found: Mapping[Any, Tensor], known: Known[Any], target: Any, dtype: str, c: float
    ) -> None:
        self.run, self.found, self.known, self.target, self.dtype, self.c = run, found, known, target, dtype, c
        self.agreeing = [key for key in known if key in found and self._judge(found[key], *known[key]).verdict.green]
        self.operations: set[str] = set()
        self.seen: list[Seen] = []
        self._dropouts: list[tuple[np.ndarray, float]] = []

    def is_sound(self) -> bool:
        """Return whether the target fails, and `run` is the reference; note the reference's operations."""
        target = self.target
        if target not in self.found or target not in self.known or target in self.agreeing:
            return False
        values = self.run(Mutating({ANY: self._note}))
        if target not in values or not self._is_same(values[target]):
            return False
        self.operations |= {WRITTEN_OUT[name][0] for name in self.operations & WRITTEN_OUT.keys()}
        return True

    def _note(self, call: Call) -> Any:
        self.operations.add(call.name)
        if call.name in READS:
            return NotImplemented
        if call.name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout") and len(call.args) > 1:
            self._dropouts.append((call.x.detach().numpy().copy(), float(call.args[1])))
        kept = call.name == "add" or call.name in NORMS
        self.seen.append(Seen(call, call.plain() if kept else None))
        return self.seen[-1].result if kept else NotImplemented

    def dropouts(self) -> Iterator[Cause]:
        value, error = self.known[self.target]
        if value.dtype.kind != "f":
            return
        answer = dropped(np.asarray(self.found[self.target].values, np.float64), value, self.c * error, self._dropouts)
        if answer is not None:
            yield Cause(f"dropout is left on (with a rate of {answer[0]:.2g})", answer[1])

    def claims(self, hypothesis: Hypothesis, ends: float) -> Iterator[Cause]:
        """Try a hypothesis on all calls at once, and else on each call alone until the clock says `ends`."""
        names = hypothesis.operations.keys()
        if ANY not in names and not names & self.operations:
            return
        calls, share = self._try(hypothesis, None)
        if share is not None:
            yield Cause(hypothesis.says, share)
        elif 1 < len(calls) <= MOST_CALLS and ANY not in names and hypothesis.planned is None:
            of = " and ".join(dict.fromkeys(calls))
            for number in range(len(calls)):
                if time.monotonic() > ends:
                    return
                _, share = self._try(hypothesis, number)
                if share is not None:
                    yield Cause(f"{hypothesis.says} in call {number + 1} of {len(calls)} of {of}", share)

    def _try(self, hypothesis: Hypothesis, number: int | None) -> tuple[list[str], float | None]:
        """Return the operations of the calls that a hypothesis is about, and the share of the budget if it matches."""
        only = Only(hypothesis.changes(self.seen), number)
        try:
            values = self.run(only.mode)
        except Exception:  # shapes that do not fit: a layer with this fault would raise
            return only.calls, None
        if not only.mode.applied or not self._is_closer(values.get(self.target)):
            return only.calls, None
        levels = rounding(self.dtype)

        def again() -> dict[Any, torch.Tensor]:
            return dict(self.run(Only(hypothesis.changes(self.seen), number).mode))

        try:
            changed, errors = budget(again, levels.u, U_ACC, levels.tiny)
        except RuntimeError:  # a change that is not repeatable, or has no finite budget
            return only.calls, None
        own = self._judge(self.found[self.target], changed[self.target], errors[self.target])
        if not own.verdict.green or own.budget_use is None or not self._is_other(changed, errors):
            return only.calls, None
        for key in self.agreeing:
            if key in changed and not self._judge(self.found[key], changed[key], errors[key]).verdict.green:
                return only.calls, None
        return only.calls, own.budget_use

    def _is_same(self, value: torch.Tensor) -> bool:
        """Return whether a value of the target is that of the unchanged reference, within its budget."""
        reference, error = self.known[self.target]
        array = value.detach().numpy()
        return self._judge(Tensor(array, "float64"), reference, error).verdict.green

    def _is_other(self, changed: Mapping[Any, np.ndarray], errors: Mapping[Any, np.ndarray]) -> bool:
        """Return whether the changed reference and the unchanged one are told apart by the budget of either."""
        value, error = changed[self.target], errors[self.target]
        is_bounded = bool((error[np.isfinite(value)] < UNBOUNDED).all())
        there = self._judge(Tensor(self.known[self.target][0], "float64"), value, error).verdict.green
        return is_bounded and not there and not self._is_same(torch.from_numpy(value))

    def _is_closer(self, value: torch.Tensor | None) -> bool:
        """Return whether the result is nearer to a changed value than to the reference."""
        result, (reference, _) = np.float64(self.found[self.target].values), self.known[self.target]
        if value is None or tuple(value.shape) != result.shape:
            return False
        if result.shape != reference.shape:
            return True
        changed = value.detach().numpy()
        finite = np.isfinite(result) & np.isfinite(reference) & np.isfinite(changed)
        near, far = (np.abs(result - other)[finite] for other in (changed, reference))
        if not finite.all():
            return bool((np.isfinite(result) == np.isfinite(changed)).all())
        if not far.size:
            return False
        return bool(near.max() <= CLOSER * far.max() or np.linalg.norm(near) <= CLOSER * np.linalg.norm(far))

    def _judge(self, result: Tensor, value: np.ndarray, error: np.ndarray) -> Judgement:
        with np.errstate(over="ignore", invalid="ignore"):
            return judge(result, value, error, None, self.c)
