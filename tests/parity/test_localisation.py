"""Which stage is named as the first that diverges: by what each stage adds, and not by what arrives at it."""

import pytest

from eca_multi.parity.explain.localize import Stage, culprit, say
from eca_multi.parity.judge.compare import Judgement, Verdict

RIGHT, WRONG = Judgement(Verdict.WITHIN_BUDGET, 0.5), Judgement(Verdict.EXCEEDS_BUDGET, 30.0)
SHAPE, NAN = Judgement(Verdict.SHAPE_MISMATCH), Judgement(Verdict.NONFINITE_MISMATCH)
MISSING = Judgement(Verdict.MISSING_TAP)


def chain(**stages):
    """Stages by name, each as (as it came, in isolation)."""
    return [Stage(name, "forward", *judgements) for name, judgements in stages.items()]


CHAINS = {
    # Errors that add up make the second stage fail as it came; the third adds the fault.
    "accumulated": (chain(pooled=(RIGHT, RIGHT), conv=(WRONG, RIGHT), gate=(WRONG, WRONG)), "gate"),
    "first": (chain(pooled=(WRONG, WRONG), conv=(WRONG, RIGHT), gate=(WRONG, RIGHT)), "pooled"),
    # A later stage may hide what an earlier one added: two faults that undo each other.
    "hidden": (chain(pooled=(RIGHT, RIGHT), conv=(RIGHT, WRONG), gate=(RIGHT, WRONG)), "conv"),
    "carried": (chain(pooled=(RIGHT, RIGHT), conv=(WRONG, RIGHT), gate=(WRONG, RIGHT)), None),
    "shape": (chain(pooled=(RIGHT, RIGHT), conv=(SHAPE, SHAPE)), "conv"),
    "not-finite": (chain(pooled=(RIGHT, RIGHT), conv=(NAN, NAN)), "conv"),
    "no-tap": (chain(pooled=(MISSING, MISSING), conv=(WRONG, WRONG)), "conv"),
    "right": (chain(pooled=(RIGHT, RIGHT), conv=(RIGHT, RIGHT)), None),
}


@pytest.mark.parametrize(("stages", "name"), CHAINS.values(), ids=CHAINS)
def test_the_culprit_is_the_first_stage_that_fails_in_isolation(stages, name):
    found = culprit(stages)
    assert (found.name if found else None) == name
    line = say(stages, "")
    assert (f"first divergence: {name} (" in line) == (name is not None)


def test_an_error_that_only_accumulates_is_said():
    stages, _ = CHAINS["carried"]
    assert say(stages, "") == "first divergence: conv, but no stage fails alone: the error accumulates"
    assert say(CHAINS["right"][0], "").startswith("first divergence: none when it is run again")
    assert say(CHAINS["no-tap"][0], "").endswith("upstream clean (no tap pooled)")
