"""Pages in a real browser, and what a script measures of them: contrast, overflow, texts that touch, requests."""

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
