"""The choice of a plan, and the records of several runs put together."""

import json
import sys

import pytest

from benchmarks.zoo.__main__ import main
from benchmarks.zoo.steps import planned
from eca_multi.surgery.errors import NoSiteError


class Plan:
    paths, skipped, evidence = [f"c{i}" for i in range(20)], ["one"], ()


def test_a_network_without_a_residual_branch_gets_at_most_eight_other_sites():
    asked, found = [], {}

    def plan_eca(where):
        asked.append(where)
        if where in ("residual", "conv_norm"):
            raise NoSiteError(f"no {where}")
        return Plan()

    plan, skipped = planned(plan_eca, found)
    assert isinstance(plan, Plan)
    assert asked[:3] == ["residual", "conv_norm", "conv"]
    assert asked[3:] == [["c0", "c3", "c6", "c9", "c12", "c15", "c18"]]
    assert found == {"refused": "no residual", "where": "conv"}
    assert skipped == ()


def test_what_the_package_raises_is_a_result():
    found = {}

    def plan_eca(where):
        raise KeyError("x")

    assert planned(plan_eca, found) == (None, ())
    assert found == {"plan": {"ok": False, "note": "KeyError: 'x'"}}


def record(name, **more):
    return {"framework": "torch", "name": name, "seconds": 1.0, "adds": 0, **more}


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
    return main()


def test_records_of_other_runs_are_taken_over_and_the_last_counts(tmp_path, monkeypatch):
    out, first, second = (tmp_path / name for name in ("out.jsonl", "first.jsonl", "second.jsonl"))
    old, new = record("torchvision:resnet50", commit="old"), record("torchvision:resnet50", commit="new")
    out.write_text(json.dumps(old) + "\n")
    first.write_text(json.dumps(record("torchvision:resnet18")) + "\n" + json.dumps(record("no:such")) + "\n")
    second.write_text(json.dumps(new) + "\n")
    call(monkeypatch, "--page-only", "--records", first, second, "--out", out, "--page", tmp_path / "page.md")
    assert [json.loads(line) for line in out.read_text().splitlines()] == [record("torchvision:resnet18"), new]
    page = (tmp_path / "page.md").read_text()
    assert "unknown (1), new (1)" in page
    assert "torchvision:resnet50" in page
    assert "no:such" not in page


def test_a_file_that_is_missing_changes_nothing(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no such file"):
        call(monkeypatch, "--page-only", "--records", tmp_path / "none", "--out", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
