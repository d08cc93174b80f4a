"""The worked study: its statistics, its pairs, and that docs/study.md says what was measured."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.study import page
from benchmarks.study.compare import differences, holm, paired
from benchmarks.study.networks import KINDS, build
from benchmarks.study.tasks import TASKS, split
from benchmarks.study.train import run

MEASURED = page.DOCS / "measured"


def test_a_paired_difference_is_that_of_scipy(rng):
    a, b = rng.normal(size=8) + 0.5, rng.normal(size=8)
    theirs = stats.ttest_rel(a, b)
    ours = paired("task", "kind", zip(a, b, strict=True))
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_equal_runs_claim_nothing_and_a_constant_difference_is_no_chance():
    assert paired("task", "kind", [(1.0, 1.0)] * 5).p == 1
    assert paired("task", "kind", [(2.0, 1.0)] * 5).p == 0


def test_holm_claims_less_the_more_is_looked_at(rng):
    noise = [paired("task", str(i), rng.normal(size=(6, 2))) for i in range(20)]
    clear = paired("task", "clear", [(1 + 1e-3 * i, 0.0) for i in range(6)])
    weak = paired("task", "weak", [(i, 0.0) for i in (0.2, 1.0, 1.5, 0.5, 0.9, 2.5)])
    assert 0.002 < weak.p < 0.05  # alone it would be claimed
    assert [d.claimed for d in holm([weak])] == [True]
    claimed = {d.kind for d in holm([weak, *noise, clear]) if d.claimed}
    assert claimed == {"clear"}


def test_only_seeds_that_both_have_are_compared():
    records = [
        {"task": "t", "kind": kind, "seed": seed, "accuracy": float(10 * seed + (kind == "ECA"))}
        for kind, seeds in {"none": (0, 1, 2), "ECA": (1, 2, 3)}.items()
        for seed in seeds
    ]
    (found,) = differences(records, "accuracy")
    assert (found.mean, found.seeds) == (1.0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_start_from_the_same_weights(kind):
    plain, network = (build(name, 1, 1, 3, seed=5).state_dict() for name in ("none", kind))
    assert all(torch.equal(plain[name], network[name]) for name in plain)
    assert (len(network) > len(plain)) == (kind != "none")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_halves_are_apart_and_scaled_by_the_training_half(task):
    data = split(task, 0)
    assert abs(data.train_x.mean()) < 1e-5
    assert not torch.equal(data.train_x, split(task, 1).train_x)
    inputs, _ = task.read()
    assert len(data.train_x) + len(data.test_x) == len(inputs)
    assert not {tuple(x.flatten().tolist()) for x in data.train_x[:50]} & {
        tuple(x.flatten().tolist()) for x in data.test_x
    }


def test_a_run_is_the_same_run_again():
    first, again = (run(TASKS["wine"], "ECA", 0, epochs=3) for _ in range(2))
    assert first == again
    assert np.isfinite(first["loss"])


def test_the_page_says_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "picture", lambda *_: None)
    written = (page.DOCS / "study.md").read_text()
    monkeypatch.setattr(page, "DOCS", tmp_path)
    records = [json.loads(line) for line in (MEASURED / "study.jsonl").read_text().splitlines()]
    page.write(records, json.loads((MEASURED / "study-times.json").read_text()))
    assert (tmp_path / "study.md").read_text() == written
    assert {(r["task"], r["kind"]) for r in records} == {(task, kind) for task in TASKS for kind in KINDS}
    assert min(sum(r["task"] == t and r["kind"] == k for r in records) for t in TASKS for k in KINDS) >= 5


def test_the_verdict_names_what_is_claimed_and_says_no_difference_where_none_is(rng):
    def records(moved):
        return [
            {"task": "wine", "kind": kind, "seed": seed, "accuracy": 90 + moved * (kind == "SE") + 0.01 * rng.normal()}
            for kind in ("none", "SE", "ECA")
            for seed in range(6)
        ]

    nothing, something = (differences(records(moved), "accuracy") for moved in (0.0, 5.0))
    assert "No difference in accuracy" in page.verdict(nothing, nothing)
    assert "better on wine: SE" in page.verdict(something, nothing)
