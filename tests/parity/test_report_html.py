"""The HTML report: whole, safe, the same every time; and, in a real browser, legible in each scheme and width."""

import base64
import contextlib
import copy
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from eca_multi.parity.explain.fingerprints import PROBES
from eca_multi.parity.report.html import to_html
from eca_multi.parity.report.html.formats import plain, use
from eca_multi.parity.report.html.markup import Markup, clean, element
from eca_multi.parity.report.html.page import SECTIONS
from eca_multi.parity.report.html.scales import decades_around, tight_around
from tests.support import report_fixture
from tests.support.report_fixture import HOSTILE, TRACEBACK

ROOT = Path(__file__).parents[2]
REPORT = report_fixture.make()
PAGE = to_html(REPORT)
# What each section shows, by the key of the report that it comes from.
SOURCES = {
    "matrix": "results",
    "failures": "results",
    "undecided": "results",
    "chain": "localisations",
    "scatter": "results",
    "histogram": "results",
    "drift": "trajectories",
    "fingerprint": "runners",
    "power": "power",
    "cases": "cases",
    "runners": "runners",
    "environment": "environment spec tool",
}


class Outline(HTMLParser):
    """The elements of a page: that each is closed, their attributes, and their text."""

    VOID = ("meta", "br", "wbr")

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"{tag} was never opened"
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def tags(self):
        return {tag for tag, _ in self.elements}

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def sections(page):
    return [attributes["id"] for tag, attributes in Outline(page).elements if tag == "section"]


def small():
    """A report with a little of everything."""
    report = copy.deepcopy(REPORT)
    seen, kept = {}, []
    for row in report["results"]:
        kind = (row["verdict"], "profile" in row)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= 2:
            kept.append(row)
    return {**report, "results": kept, "trajectories": report["trajectories"][:2], "power": report["power"][:2]}


# --- the page is whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report", [REPORT, report_fixture.agreeing(), small(), {}], ids=["full", "green", "small", "empty"]
)
def test_every_element_is_closed_and_every_id_its_own(report):
    outline = Outline(to_html(report))
    assert len(outline.ids()) == len(set(outline.ids()))
    assert {a["href"] for tag, a in outline.elements if tag == "a"} == {f"#{i}" for i in sections(to_html(report))}


@pytest.mark.parametrize("broken", ["<p><b></p></b>", "<p>", "</p>"])
def test_an_element_left_open_would_be_found(broken):
    with pytest.raises(AssertionError, match=r"closed|closes|opened"):
        Outline(broken)


def test_nothing_is_fetched_and_nothing_runs():
    outline = Outline(PAGE)
    assert not re.search(r"https?://|@import|url\((?!#)", PAGE)
    assert not outline.tags() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in outline.elements:
        assert not {"src", "srcset", "xlink:href"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    policy = next(a["content"] for _, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_all_sections_are_there_in_their_order():
    assert sections(PAGE) == [section.id for section in SECTIONS] == list(SOURCES)


@pytest.mark.parametrize("section", SOURCES)
def test_a_section_is_there_only_if_it_has_data(section):
    keys = SOURCES[section].split()
    blanked = {key: value for key, value in REPORT.items() if key not in keys}
    assert section not in sections(to_html(blanked))
    assert section in sections(to_html({key: REPORT[key] for key in keys}))


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
    inconclusive = to_html({"exit_code": 4, "results": [{"verdict": "INCONCLUSIVE"}]})
    assert "Nothing conclusive" in inconclusive
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
        (["EXCEEDS_BUDGET"], "0 of 1 tensor within budget"),
        (["WITHIN_BUDGET", "MISSING_TAP", "NONFINITE_MISMATCH", "SHAPE_MISMATCH"], "1 of 4 tensors within budget"),
        (["BITWISE", "INCONCLUSIVE", "UNSUPPORTED"], "1 of 1 tensor within budget · 2 without a verdict"),
    ],
)
def test_the_banner_counts_what_is_within_budget(verdicts, counts):
    results = [{"runner": "r", "case": "c", "verdict": verdict} for verdict in verdicts]
    (header,) = re.findall("<header.*?</header>", to_html({"exit_code": 1, "results": results}), re.DOTALL)
    assert f">{counts} ·" in header


def test_equal_reports_give_equal_bytes_in_any_process_and_stay_as_they_are():
    report = copy.deepcopy(REPORT)
    assert to_html(report) == PAGE
    assert report == REPORT
    code = (
        "import hashlib; from tests.support import report_fixture; from eca_multi.parity.report.html import to_html;"
        "print(hashlib.sha256(to_html(report_fixture.make()).encode()).hexdigest())"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


# --- it says what the report says --------------------------------------------------------------------------------


def test_a_cell_of_the_matrix_says_its_worst_case_and_tensor():
    titles = "\n".join(html.unescape(title) for title in re.findall(r"<title>(.*?)</title>", PAGE, re.DOTALL))
    assert (
        "keras-jax · input_grad".replace("_", " ") + " · bfloat16\nworst: offsets, dx at [1, 3, 7, 2]: 2.80 " in titles
    )
    assert re.search(r"linen · weight grad · bfloat16\nworst: same-sign, dw at \[1\]: 1180 .* exceeds budget", titles)
    assert "10 exceeds budget, 2 within budget" in titles


def test_failing_cells_are_marked_by_more_than_colour():
    failing = {(r["runner"], r["check"], r["dtype"]) for r in REPORT["results"] if r["verdict"] in FAILING}
    assert PAGE.count('class="ring ') == PAGE.count('class="stamp ') == len(failing)
    for word in ("shape", "dtype", "tap", "error", "inf", "n/a", "?"):
        assert re.search(rf'class="word (u7|open)"[^>]*>{re.escape(word)}<', PAGE), word


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
    assert page.count('class="ring u7"') == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "∞"),
        (0.0, "0"),
        (1e-9, "<0.01"),
        (0.434, "0.43"),
        (0.9999, "0.99"),
        (1.0, "1.00"),
        (1.0001, "1.01"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1180.0, "1180"),
        (9999.6, "1e4"),
        (3.2e40, "3e40"),
    ],
)
def test_rounding_never_carries_a_budget_use_over_the_limit(value, text):
    assert use(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\u2013"), (0.0, "0"), (1234.5, "1234"), (0.0123456, "0.0123"), (3.4e-9, "3.40e-9")]
)
def test_three_digits(value, text):
    assert plain(value) == text


def test_failures_are_listed_worst_first_with_their_evidence():
    text = " ".join(Outline(PAGE).text)
    order = [text.index(f"{case} bfloat16 weight grad dw ") for case in ("same-sign", "offsets", "photographs")]
    assert order == sorted(order)
    assert "0.236097656" in text
    assert "10 failures" in text


def test_the_errors_of_a_job_are_one_row_with_the_whole_traceback_on_demand():
    assert PAGE.count(html.escape(TRACEBACK)) == 1
    outline = Outline(PAGE)
    assert "dw, dx, y" in outline.text
    assert TRACEBACK in outline.text


def test_the_replay_command_can_be_copied():
    assert f'<code class="command">{REPORT["replay"]}</code>' in PAGE


def test_the_culprit_is_marked_in_the_chain_and_only_there():
    chain = PAGE[PAGE.index('id="chain"') : PAGE.index('id="scatter"')]
    assert chain.count('class="culprit-row"') == 1
    assert "first divergence d_gate" in chain
    assert "first divergence none by itself" in chain
    assert "N=1, C=3, H=17, W=16, k=3" in chain
    assert chain.count("Run it again: ") == 1  # the other has no bundle


def test_the_fingerprint_shows_only_what_differs_and_marks_the_minority():
    part = PAGE[PAGE.index('id="fingerprint"') : PAGE.index('id="power"')]
    assert "rounding" not in part
    assert "2 of 7 probes have the same answer everywhere." in part
    assert re.search(r'class="minority"><td><b class="mark">◆ </b>no</td><td>linen</td>', part)


def test_a_probe_is_shown_with_what_it_measures():
    runners = [{"name": name, "fingerprint": {"repeatable": name == "a"}} for name in "ab"]
    assert PROBES["repeatable"] in to_html({"runners": runners})


def test_equal_camps_have_no_minority():
    runners = [{"name": name, "fingerprint": {"flushes": name < "c"}} for name in "abcd"]
    page = to_html({"runners": runners})
    assert "fingerprint" in sections(page)
    assert 'class="minority"' not in page


def test_runners_that_leave_the_band_are_named_in_the_chart():
    part = PAGE[PAGE.index('id="drift"') : PAGE.index('id="fingerprint"')]
    assert re.findall(r"Outside of the band: (.*?)\.\"", part) == ["no runner", "keras-jax, linen", "no runner"]
    assert part.count('class="over-count"') == 2


def test_a_runner_that_could_not_run_says_why():
    text = " ".join(Outline(PAGE).text)
    assert text.count('tensorflow not installed; pip install "eca-multi[tensorflow]"') >= 2
    assert "Segmentation fault" in text


def test_a_tolerance_set_by_hand_is_marked():
    assert "0.30ᵐ" in PAGE
    assert "tolerance set by hand" in PAGE


# --- numbers on their axes ---------------------------------------------------------------------------------------


def test_a_logarithmic_axis_has_whole_decades_and_a_place_for_zero():
    scale = decades_around([0.0, 3e-4, 20.0], 0, 100, slot=10)
    assert (scale.low, scale.high) == (-4, 2)
    assert 0 < scale(0.0) < scale(1e-4) == 10 < scale(1.0) < scale(100.0) == 100
    assert [re.sub("<.*?>", "", tick) for _, tick in scale.decades(6)] == ["0", "10\u22124", "10\u22122", "1", "102"]


def test_an_axis_of_steps_is_marked_in_round_numbers():
    scale = tight_around([1, 200], 0, 280)
    assert [tick for _, tick in scale.round_numbers(26)] == ["1", "2", "5", "10", "20", "50", "100", "200"]


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [5e-324, 1.7e308]])
def test_any_numbers_have_an_axis(values):
    for around in (decades_around, tight_around):
        scale = around(values, 200, 10, slot=20)
        assert all(10 <= scale(value) <= 200 for value in [0.0, *values, 1e308])
        assert scale.decades()


# --- it is safe --------------------------------------------------------------------------------------------------


def poison(value, text):
    """The same structure with `text` in every string but those of a fixed list, keys of free mappings included."""
    if isinstance(value, dict):
        free = value.keys() & {"python", "torch", "jax", "rounding", "N"}
        fixed = {key: item for key, item in value.items() if key in ("verdict", "state", "direction", "budget")}
        return {text + key if free else key: poison(item, text) for key, item in value.items()} | fixed
    if isinstance(value, list):
        return [poison(item, text) for item in value]
    return value + text if isinstance(value, str) else value


ATTACK = HOSTILE + '<img src=x onerror="hacked()"><!-- --></title></style></svg></pre>\ud800'


def test_hostile_text_stays_text_wherever_it_stands():
    before, after = Outline(to_html(small())), Outline(to_html(poison(small(), ATTACK)))
    assert after.tags() == before.tags()
    for _, attributes in after.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert any("<img src=x onerror=" in text for text in after.text)
    to_html(poison(small(), ATTACK)).encode()


def test_what_a_document_cannot_hold_is_written_as_in_python():
    assert clean("a\x00\ud800\u202eb\r\n\x1b[31mc\td") == "a\\x00\\ud800\\u202eb\n\\x1b[31mc\td"


def larger(value, number):
    """The same structure with `number` in the place of every number."""
    if isinstance(value, dict):
        return {key: larger(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [larger(item, number) for item in value]
    return number if isinstance(value, float) else value


@pytest.mark.parametrize(
    "number",
    [10**400, -(10**400), float("inf"), float("nan"), 1e308, -1e308, 5e-324],
    ids=["huge", "-huge", "inf", "nan", "largest", "-largest", "smallest"],
)
def test_a_number_of_any_size_is_drawn_or_left_out(number):
    assert to_html(larger(small(), number)).endswith("</html>\n")


def test_only_markup_is_not_escaped():
    assert element("p", "<b>", Markup("<b></b>"), None, class_='"', aria_label="a&b", hidden=None, x=1.0) == (
        '<p class="&quot;" aria-label="a&amp;b" x="1">&lt;b&gt;<b></b></p>'
    )
    assert type(Markup("<b>")[:2]) is str, "a part of markup is not markup"


def everywhere(value, path=()):
    """The path to everything in a report; of a list, to its first item."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from everywhere(item, (*path, key))


def without(report, path):
    report = copy.deepcopy(report)
    holder = report
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return report


def with_(report, path, value):
    report = copy.deepcopy(report)
    holder = report
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return report


def tiny():
    """A report with one of each thing."""
    failing = next(row for row in REPORT["results"] if row["verdict"] == "EXCEEDS_BUDGET" and "profile" in row)
    return {key: value[:1] if isinstance(value, list) else value for key, value in REPORT.items()} | {
        "results": [failing]
    }


def test_any_key_may_be_missing():
    for path in everywhere(tiny()):
        Outline(to_html(without(tiny(), path)))


@pytest.mark.parametrize("wrong", [None, "text", -1.5, float("nan"), [None], {"a": None}], ids=repr)
def test_any_value_may_be_of_another_kind(wrong):
    for path in everywhere(tiny()):
        assert to_html(with_(tiny(), path, wrong)).endswith("</html>\n")


# --- in a browser ------------------------------------------------------------------------------------------------

WIDTHS = (1280, 375)
SCHEMES = {"dark": 0, "light": 1}  # Chromium's preferredColorScheme
GROUNDS = {"dark": "rgb(14, 19, 24)", "light": "rgb(255, 255, 255)"}
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# A window has a least width, so the page stands in frames of the widths asked for. Nothing is added to the page itself.
WRAPPER = """<!doctype html><meta charset="utf-8"><style>:root{color-scheme:light dark}body{margin:0}
iframe{border:0;display:block;height:900px}</style>FRAMES<pre id="result"></pre><script>
const near = 1.5;
const rect = e => e.getBoundingClientRect();
const parts = s => {
  const p = s.match(/[\\d.]+/g).map(Number);
  return p.length > 3 && p[3] === 0 ? null : p.slice(0, 3);
};
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = c.map(v => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b; };
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());

function ground(e, w) {  // the colour behind a text: a cell or band of its picture, or the nearest background
  const drawn = e.namespaceURI.endsWith('svg') && e.closest('g')?.querySelector('rect.cell, rect.culprit-row');
  if (drawn) return parts(w.getComputedStyle(drawn).fill);
  for (let n = e; n; n = n.parentElement) { const c = parts(w.getComputedStyle(n).backgroundColor); if (c) return c; }
}

function measure(frame) {
  const w = frame.contentWindow, d = w.document, root = d.documentElement, all = [...d.querySelectorAll('*')];
  d.querySelectorAll('details').forEach(e => e.open = true);
  const shown = all.filter(e => e.checkVisibility?.() && rect(e).width > 1 && words(e));
  const texts = [...d.querySelectorAll('svg text')];
  const ratios = shown.map(e => {
    const s = w.getComputedStyle(e), svg = e.namespaceURI.endsWith('svg');
    return [contrast(parts(svg ? s.fill : s.color), ground(e, w)), e.textContent.slice(0, 40)];
  }).sort((a, b) => a[0] - b[0]);
  const outside = [], touching = [], unseen = [], sizes = [];
  for (const svg of d.querySelectorAll('svg')) {
    const box = rect(svg), own = [...svg.querySelectorAll('text')], label = svg.getAttribute('aria-label');
    if (!(box.width > 0 && box.height > 0) || svg.getAttribute('role') !== 'img' || !label) unseen.push(label);
    const scale = box.width / svg.viewBox.baseVal.width;
    for (const [i, t] of own.entries()) {
      const a = rect(t);
      sizes.push([scale * parseFloat(w.getComputedStyle(t).fontSize), t.textContent]);
      const across = a.left < box.left - near || a.right > box.right + near;
      if (across || a.top < box.top - near || a.bottom > box.bottom + near) outside.push(t.textContent);
      for (const u of own.slice(i + 1)) {
        const b = rect(u);  // the boxes of letters are taller than the letters
        if (a.left < b.right - near && b.left < a.right - near && a.top < b.bottom - 4 && b.top < a.bottom - 4)
          touching.push(t.textContent + ' | ' + u.textContent);
      }
    }
  }
  return {
    width: w.innerWidth, overflow: root.scrollWidth - root.clientWidth, pictures: d.querySelectorAll('svg').length,
    dark: w.matchMedia('(prefers-color-scheme: dark)').matches, background: w.getComputedStyle(d.body).backgroundColor,
    contrast: ratios[0], texts: texts.length, outside, touching, unseen, smallest: sizes.sort((a, b) => a[0] - b[0])[0],
    scripts: d.querySelectorAll('script, img').length, fetched: w.performance.getEntriesByType('resource').length,
    clipped: all.filter(e => e.matches('.steps, summary, .command, dd') && e.scrollWidth > e.clientWidth + 1
      && w.getComputedStyle(e).display !== 'inline').map(e => e.textContent.slice(0, 40)),
  };
}
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(measure);
  document.getElementById('result').textContent = 'RESULT' + btoa(encodeURIComponent(JSON.stringify(found))) + 'END';
});
</script>"""


@cache
def chromium():
    """The browser, or a skip; a failure where one is required."""
    found = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if found is None and os.environ.get("ECA_MULTI_REQUIRE_CHROMIUM") == "1":
        pytest.fail("ECA_MULTI_REQUIRE_CHROMIUM=1, but there is no chromium; install it or set CHROMIUM to its path")
    if found is None:
        pytest.skip("no chromium on the path; install it or set CHROMIUM to its path")
    return found


def browse(page, folder, scheme, *flags, size=(1280, 900)):
    """Open a page in a browser of its own and return what that prints."""
    file = folder / "page-to-open.html"
    file.write_text(page, encoding="utf-8")
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}"]
    command += [f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", *flags, file.as_uri()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8", start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
    assert process.returncode == 0, f"chromium ended with {process.returncode}"
    return output


def frame(page, width):
    return f'<iframe style="width:{width}px" srcdoc="{html.escape(page)}"></iframe>'


def visit(frames, folder, scheme):
    """What the measuring script finds in each frame."""
    output = browse(WRAPPER.replace("FRAMES", "".join(frames)), folder, scheme, "--dump-dom")
    result = re.search("RESULT([A-Za-z0-9+/=]+)END", output)
    assert result, "the measuring script did not end"
    return json.loads(unquote(base64.b64decode(result[1]).decode()))


def drawn(content):
    return f"<svg role='img' aria-label='drawn' width='100' height='60' viewBox='0 0 100 60'>{content}</svg>"


PAGES = {
    "full": PAGE,
    "green": to_html(report_fixture.agreeing()),
    "hostile": to_html(poison(small(), ATTACK)),
    "empty": to_html({}),
}


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request, tmp_path_factory):
    """All pages in all widths, found in one visit for each scheme."""
    places = [(page, width) for page in PAGES for width in WIDTHS]
    frames = [frame(PAGES[page], width) for page, width in places]
    found = visit(frames, tmp_path_factory.mktemp("browser"), request.param)
    return request.param, dict(zip(places, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_browser_shows_the_page_well(seen, page, width):
    scheme, found = seen[0], seen[1][page, width]
    assert found["width"] == width
    assert found["dark"] == (scheme == "dark")
    assert found["background"] == GROUNDS[scheme]
    assert found["overflow"] == 0
    assert found["clipped"] == []
    assert found["pictures"] >= {"full": 20, "green": 12, "hostile": 8, "empty": 1}[page]
    assert found["unseen"] == []
    assert found["outside"] == []
    assert found["touching"] == []
    assert found["contrast"][0] >= 4.5, found["contrast"]
    assert page == "empty" or found["smallest"][0] >= 10, found["smallest"]  # pixels
    assert (found["scripts"], found["fetched"]) == (0, 0)


# One defect each, and the finding that shows it.
DEFECTS = {
    "overflow": ("<div style='width:2000px'>wide</div>", lambda f: f["overflow"] > 0),
    "touching": (drawn("<text x='9' y='30'>one</text><text x='14' y='33'>two</text>"), lambda f: f["touching"]),
    "outside": (drawn("<text x='90' y='30'>far too long</text>"), lambda f: f["outside"]),
    "unseen": ("<svg role='img' aria-label='flat' style='height:0'></svg>", lambda f: f["unseen"]),
    "unnamed": ("<svg width='9' height='9' viewBox='0 0 9 9'></svg>", lambda f: f["unseen"]),
    "pale": ("<p style='color:#999;background:#aaa'>pale</p>", lambda f: f["contrast"][0] < 4.5),
    "pale-cell": (
        drawn("<g><rect class='cell' width='90' height='50' fill='#444'/><text x='9' y='30' fill='#222'>x</text></g>"),
        lambda f: f["contrast"][0] < 4.5,
    ),
    "tiny": (drawn("<text x='9' y='30' font-size='4'>tiny</text>"), lambda f: f["smallest"][0] < 10),
    "clipped": ("<p class='steps' style='width:20px;overflow:hidden'>unbreakable</p>", lambda f: f["clipped"]),
    "script": ("<script>1</script>", lambda f: f["scripts"]),
}


@pytest.mark.slow
def test_each_defect_would_be_found(tmp_path):
    """All in one visit: a frame for each."""
    plain_page = "<!doctype html><meta charset='utf-8'><body style='background:#fff'>"
    pages = [drawn("<text x='9' y='30'>fine</text>"), *(defect for defect, _ in DEFECTS.values())]
    fine, *found = visit([frame(plain_page + page, 400) for page in pages], tmp_path, "light")
    assert [name for name, (_, shows) in DEFECTS.items() if shows(fine)] == []
    assert [name for (name, (_, shows)), f in zip(DEFECTS.items(), found, strict=True) if not shows(f)] == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_picture_of_the_page_is_in_its_colours(scheme, tmp_path):
    picture = tmp_path / "picture.png"
    page = WRAPPER.split("FRAMES")[0] + "<div style='display:flex'>" + "".join(frame(PAGE, width) for width in WIDTHS)
    browse(page, tmp_path, scheme, f"--screenshot={picture}", size=(sum(WIDTHS), 900))
    banner = (51, 32, 15) if scheme == "dark" else (253, 236, 225)
    with Image.open(picture) as image:
        assert image.size == (sum(WIDTHS), 900)
        for left, width in ((0, WIDTHS[0]), (WIDTHS[0], WIDTHS[1])):
            pixels = image.convert("RGB").crop((left, 0, left + width, 900))
            colours = {colour: n for n, colour in pixels.getcolors(width * 900)}
            assert "rgb({}, {}, {})".format(*max(colours, key=colours.get)) == GROUNDS[scheme]
            assert colours[banner] > 5000
            assert len(colours) > 100


def test_the_page_prints(tmp_path):
    paper = tmp_path / "page.pdf"
    browse(PAGE, tmp_path, "dark", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
