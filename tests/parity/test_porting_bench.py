"""The bench of porting faults, on three of its layers, so that the script cannot rot; the whole takes minutes."""

import keras
import pytest

from benchmarks.porting.all_layers import LAYERS
from benchmarks.porting.causes import CAUSES, names
from benchmarks.porting.layer import runs_of
from benchmarks.porting.local import in_process
from benchmarks.porting.page import BEGIN, END, put_into, write_section
from benchmarks.porting.record import Record, run_right, run_wrong

RUNNER = f"keras-{keras.backend.backend()}"
CHOSEN = [layer for layer in LAYERS if layer.name in ("Linear", "LeakyReLU", "Softmax")]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    with in_process():
        right = [record for layer in CHOSEN for record in run_right(layer, ("torch", RUNNER), ("float32",))]
        faults = [(layer, fault) for layer in CHOSEN for fault in layer.faults if "keras" in fault.on]
        return right + [record for run in faults for record in run_wrong(*run, RUNNER, ("float32",))]


def test_right_ports_are_green_and_faulty_ones_are_caught_where_they_are(records):
    right, wrong = ([r for r in records if bool(r.fault) is is_wrong] for is_wrong in (False, True))
    assert len(right) == 2 * len(CHOSEN)
    assert len(wrong) == 3
    assert not any(record.red or record.open or record.errors for record in right)
    assert all(record.cells for record in right)
    assert all(record.localised for record in wrong), [(r.layer, r.culprit) for r in wrong]
    assert all("cosine 0.99" in record.rejected for record in wrong if record.layer == "Linear")


def test_the_section_counts_the_records_and_lies_between_its_markers(records, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n")
    for _ in range(2):  # the second section takes the place of the first
        put_into(page, write_section(records, "1 s", "python x.py", "a machine"))
    text = page.read_text()
    assert text.startswith("# A page\n")
    assert text.count(BEGIN) == text.count(END) == text.count("## Faults of porting") == 1
    assert "| caught | 3 of 3 (100 %) |" in text
    assert "Faults without a word: none." in text
    blind = [Record(**{**vars(r), "red": [], "fault": r.fault and "unseen"}) for r in records]
    assert "unseen (float32)" in write_section(blind, "1 s", "python x.py", "a machine")


def test_the_bench_is_as_large_as_promised():
    runs = list(runs_of(LAYERS))
    assert len(LAYERS) >= 25
    assert len({(layer.name, fault.name) for layer, fault, _ in runs}) >= 60
    assert {runner for *_, runner in runs} >= {
        *("torch", "keras-tensorflow", "keras-jax", "keras-torch", "linen", "nnx", "jax")
    }
    assert {fault.cause for _, fault, _ in runs} <= CAUSES.keys()


@pytest.mark.parametrize(
    ("line", "cause", "is_named"),
    [
        ("matches the reference if kernel is transposed (0.2 of the budget)", "transposed kernel", True),
        ("matches the reference if kernel is flipped (0.2 of the budget)", "transposed kernel", False),
        ("matches the reference if eps is 0.001 (0.2 of the budget)", "eps", True),
        ("matches the reference if momentum is 0.9 (0.2 of the budget)", "eps", False),
    ],
)
def test_a_line_names_its_cause_and_no_other(line, cause, is_named):
    assert names(line, cause) is is_named
