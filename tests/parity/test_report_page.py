"""The HTML report is whole, the same every time, and says what the report says."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markupsafe import escape
from typer.testing import CliRunner

from eca_multi.cli.main import app
from eca_multi.parity.explain.fingerprints import PROBES
from eca_multi.parity.report.html import page as page_module
from eca_multi.parity.report.html import to_html
from tests.support import report_fixture
from tests.support.report_fixture import TRACEBACK
from tests.support.report_pages import (
    REPORT,
    Outline,
    full_page,
    same_pictures_are_drawn_once,  # noqa: F401  # a fixture
    section,
    sections,
    small,
    tiny,
)

ROOT = Path(__file__).parents[2]

# What each section shows, by the key of the report that it comes from.
SOURCES = {
    "matrix": "results",
    "failures": "results",
    "rounding": "results",
    "undecided": "results",
    "chain": "localisations",
    "scatter": "results",
    "histogram": "results",
    "drift": "trajectories",
    "fingerprint": "runners",
    "power": "power",
    "sight": "sight",
    "reach": "results",
    "cases": "cases",
    "runners": "runners",
    "environment": "environment spec tool",
}


# --- the page is whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [full_page, lambda: to_html(report_fixture.agreeing()), lambda: to_html(tiny()), lambda: to_html({})],
    ids=["full", "green", "tiny", "empty"],
)
def test_every_element_is_closed_and_every_id_its_own(make):
    page = make()
    outline = Outline(page)
    assert len(outline.ids()) == len(set(outline.ids()))
    assert {a["href"] for tag, a in outline.elements if tag == "a"} == {f"#{i}" for i in sections(page)}
    assert {a["href"] for tag, a in outline.elements if tag == "use"} <= {f"#{i}" for i in outline.ids()}


@pytest.mark.parametrize("broken", ["<p><b></p></b>", "<p>", "</p>"])
def test_an_element_left_open_would_be_found(broken):
    with pytest.raises(AssertionError, match=r"closed|closes|opened"):
        Outline(broken)


def test_nothing_is_fetched_and_nothing_runs():
    outline = Outline(full_page())
    assert not re.search(r"https?://|@import|url\((?!#)", full_page())
    assert not outline.tags() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in outline.elements:
        assert not {"src", "srcset", "xlink:href"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    policy = next(a["content"] for _, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_all_sections_are_there_in_their_order():
    assert sections(full_page()) == [name for name, _, _ in page_module.SECTIONS] == list(SOURCES)


@pytest.mark.usefixtures("same_pictures_are_drawn_once")
@pytest.mark.parametrize("name", SOURCES)
def test_a_section_is_there_only_if_it_has_data(name):
    keys, report = SOURCES[name].split(), small()
    blanked = {key: value for key, value in report.items() if key not in keys}
    assert name not in sections(to_html(blanked))
    assert name in sections(to_html({key: report[key] for key in keys}))


def test_a_report_where_all_agree_has_no_section_about_faults():
    faults = {"failures", "undecided", "chain", "fingerprint"}
    assert not faults & set(sections(to_html(report_fixture.agreeing())))


def test_an_empty_report_is_a_page_that_says_so():
    page = to_html({})
    assert sections(page) == []
    assert "No outcome is recorded" in page


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "All agree"),
        (1, "They do not agree"),
        (3, "A runner raised, crashed or timed out"),
        (4, "Nothing was compared"),
    ],
)
def test_the_banner_says_what_came_out(code, outcome):
    outline = Outline(to_html({"exit_code": code}))
    assert outcome in outline.text
    inconclusive = to_html({"exit_code": 4, "results": [{"verdict": "INCONCLUSIVE", "budget": "analytic"}]})
    assert ">A case is inconclusive<" in inconclusive
    assert [a["class"] for tag, a in outline.elements if tag == "header"] == [
        "banner pass" if code == 0 else "banner fail"
    ]


def test_the_banner_names_a_required_runner_that_is_missing():
    page = to_html({"exit_code": 1, "required": ["torch"], "runners": [{"name": "torch", "state": "unavailable"}]})
    assert "A required runner is missing" in page
    assert "Required and missing: torch." in page


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        (["BITWISE", "WITHIN_BUDGET", "EXCEEDS_BUDGET"], "2 of 3 tensors within budget"),
        (["EXCEEDS_BUDGET"], "0 of 1 tensors within budget"),
        (["WITHIN_BUDGET", "MISSING_TAP", "NONFINITE_MISMATCH", "SHAPE_MISMATCH"], "1 of 4 tensors within budget"),
        (["BITWISE", "ERROR", "ERROR"], "1 of 3 tensors within budget · 2 without a result"),
        (["BITWISE", "INCONCLUSIVE", "UNSUPPORTED"], "1 of 1 tensors within budget"),
    ],
)
def test_the_banner_counts_what_is_within_budget(verdicts, counts):
    results = [{"runner": "r", "case": "c", "verdict": verdict, "budget": "analytic"} for verdict in verdicts]
    (header,) = re.findall("<header.*?</header>", to_html({"exit_code": 1, "results": results}), re.DOTALL)
    assert f">{counts} ·" in header
    assert ("2 without a verdict" in header) == ("UNSUPPORTED" in verdicts)


@pytest.mark.slow
def test_equal_reports_give_equal_bytes_in_any_process_and_stay_as_they_are():
    report = tiny()
    page = to_html(report)
    assert to_html(report) == page
    assert report == tiny()
    code = (
        "from eca_multi.parity.report.html import to_html; from eca_multi.parity.report import junit, terminal;"
        "import hashlib, sys; assert not {'jinja2', 'matplotlib'} & set(sys.modules), 'imported before it is needed';"
        "from tests.support.report_pages import tiny;"
        "print(hashlib.sha256(to_html(tiny()).encode()).hexdigest())"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"}  # ours is random
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256(page.encode()).hexdigest()


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_a_page_that_cannot_be_written_here_says_so_before_the_run(monkeypatch, tmp_path, module):
    monkeypatch.setattr("eca_multi._page.find_spec", lambda name: None if name == module else name)
    monkeypatch.setattr("eca_multi.parity.run", lambda *args, **options: pytest.fail("it ran"))
    message = f'The HTML report needs {module}, which is not installed. Run: pip install "eca-multi[parity]"'
    with pytest.raises(ImportError, match=re.escape(message)):
        to_html({})
    done = CliRunner().invoke(app, ["parity", "run", "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 2
    assert message in done.output


# --- it says what the report says --------------------------------------------------------------------------------


def test_a_cell_of_the_matrix_says_its_worst_case_and_tensor():
    titles = "\n".join(a["title"] for tag, a in Outline(full_page()).elements if tag == "td" and "title" in a)
    assert (
        "keras-jax · input_grad".replace("_", " ") + " · bfloat16\nworst: offsets, dx at [1, 3, 7, 2]: 2.80 " in titles
    )
    assert re.search(r"linen · weight grad · bfloat16\nworst: same-sign, dw at \[1\]: 1180 .* exceeds budget", titles)
    assert "10 exceeds budget, 2 within budget" in titles


def test_failing_cells_are_marked_by_more_than_colour():
    failing = {(r["runner"], r["check"], r["dtype"]) for r in REPORT["results"] if r["verdict"] in FAILING}
    assert len(
        re.findall(r'<td class="cell u[5-7][a-z ]* failing" title="[^"]*">[^<]*<sup>✕</sup>', full_page())
    ) == len(failing)
    for word in ("shape", "dtype", "tap", "error", "inf", "n/a", "?"):
        assert re.search(rf'<td class="cell (u7|open) word[a-z ]*" title="[^"]*">{re.escape(word)}<', full_page()), word


FAILING = (
    *("EXCEEDS_BUDGET", "NONFINITE_MISMATCH", "SHAPE_MISMATCH", "DTYPE_MISMATCH", "MISSING_TAP", "ERROR"),
    "A_VERDICT_OF_TOMORROW",
)


@pytest.mark.parametrize("verdict", FAILING)
def test_a_failure_never_hides_behind_a_pass(verdict):
    good = {
        "runner": "r",
        "case": "c",
        "dtype": "float32",
        "check": "forward",
        "tensor": "y",
        "verdict": "WITHIN_BUDGET",
    }
    page = to_html({"results": [{**good, "budget_use": 0.9}, {**good, "tensor": "dx", "verdict": verdict}]})
    assert page.count('<td class="cell u7 word failing"') == 1


def test_failures_are_listed_worst_first_with_their_evidence():
    text = " ".join(Outline(full_page()).text)
    assert "10 failures" in text
    heads = re.findall(r"(\S+) bfloat16 weight grad dw ✕", text)
    assert heads == ["same-sign"]  # the worst of ten tensors of one cause, in one row
    assert "9 more tensors of the same cause (dw, dw@ones in 5 cases and bfloat16); The fault begins at d_gate." in text


def test_rounding_has_a_section_of_its_own_and_no_cross():
    part = section(full_page(), "rounding")
    assert "known: JAX&#39;s &lt;bias&gt; gradient" in part
    assert "same-sign float16 weight grad dw@ones" in part
    assert "✕" not in part


def test_the_reach_of_every_budget_is_there():
    part = section(full_page(), "reach")
    assert part.count("of the reference") > 100
    assert "the budget is 1/" in part


def test_the_errors_of_a_job_are_one_row_with_the_whole_traceback_on_demand():
    assert full_page().count(str(escape(TRACEBACK))) == 1
    outline = Outline(full_page())
    assert any("2 more tensors of the same cause (dw, dx, y in 1 case and float32)" in text for text in outline.text)
    assert TRACEBACK in outline.text


def test_the_replay_command_can_be_copied():
    assert f'<code class="command">{REPORT["replay"]}</code>' in full_page()


def test_the_culprit_is_marked_in_the_chain_and_only_there():
    chain = section(full_page(), "chain")
    assert chain.count('class="culprit-row"') == 1
    assert "first divergence d_gate" in chain
    assert "first divergence none by itself" in chain
    assert "N=1, C=3, H=17, W=16, k=3" in chain
    assert chain.count("Run it again: ") == 1  # the other has no bundle


def test_the_fingerprint_shows_only_what_differs_and_marks_the_minority():
    part = section(full_page(), "fingerprint")
    assert "rounding" not in part
    assert "2 of 7 probes have the same answer everywhere." in part
    assert re.search(r'class="minority">\s*<td><b class="mark">◆ </b>no</td><td>linen</td>', part)


def test_a_probe_is_shown_with_what_it_measures():
    runners = [{"name": name, "fingerprint": {"repeatable": name == "a"}} for name in "ab"]
    assert PROBES["repeatable"] in to_html({"runners": runners})


def test_equal_camps_have_no_minority():
    runners = [{"name": name, "fingerprint": {"flushes": name < "c"}} for name in "abcd"]
    page = to_html({"runners": runners})
    assert "fingerprint" in sections(page)
    assert 'class="minority"' not in page


def test_runners_that_leave_the_band_are_named_in_the_chart():
    part = section(full_page(), "drift")
    assert re.findall(r"Outside of the band: (.*?)\.\"", part) == ["no runner", "keras-jax, linen", "no runner"]
    assert part.count('class="outside"') == 2


def test_a_runner_that_could_not_run_says_why():
    text = " ".join(Outline(full_page()).text)
    assert text.count('tensorflow not installed; pip install "eca-multi[tensorflow]"') >= 2
    assert "Segmentation fault" in text


def test_a_tolerance_set_by_hand_is_marked():
    assert "0.30ᵐ" in full_page()
    assert "tolerance set by hand" in full_page()
