"""The HTML report in a real browser: legible in each scheme and width, on screen and on paper."""

import base64
import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
from functools import cache
from urllib.parse import unquote

import pytest
from PIL import Image

from eca_multi.parity.report.html import to_html
from tests.support import report_fixture
from tests.support.report_pages import ATTACK, full_page, poison, small

pytestmark = pytest.mark.slow

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

function ground(e, w) {  // the colour behind a text: the band of a picture's row, or the nearest background
  const own = e.ownerSVGElement?.querySelector('.culprit-row path, rect.cell');
  const within = own && rect(own).top < rect(e).top + 4 && rect(own).bottom > rect(e).bottom - 4;
  if (within) return parts(w.getComputedStyle(own).fill);
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
    width: w.innerWidth, overflow: root.scrollWidth - root.clientWidth,
    pictures: d.querySelectorAll('[role=img]').length,
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
    "full": full_page,
    "green": lambda: to_html(report_fixture.agreeing()),
    "hostile": lambda: to_html(poison(small(), ATTACK)),
    "empty": lambda: to_html({}),
}


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request, tmp_path_factory):
    """All pages in all widths, found in one visit for each scheme."""
    places = [(page, width) for page in PAGES for width in WIDTHS]
    made = {name: make() for name, make in PAGES.items()}
    frames = [frame(made[page], width) for page, width in places]
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
    assert found["pictures"] >= {"full": 18, "green": 4, "hostile": 8, "empty": 1}[page]
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
    page = (
        WRAPPER.split("FRAMES")[0]
        + "<div style='display:flex'>"
        + "".join(frame(full_page(), width) for width in WIDTHS)
    )
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
    browse(full_page(), tmp_path, "dark", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
