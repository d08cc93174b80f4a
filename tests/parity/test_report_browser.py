"""The HTML report in a real browser: legible in each scheme and width, on screen and on paper."""

import re

import pytest
from PIL import Image

from eca_multi.parity.report.html import to_html
from tests.support import report_fixture
from tests.support.browser import GROUNDS, SCHEMES, WRAPPER, browse, frame, visit
from tests.support.report_pages import ATTACK, full_page, poison, small

pytestmark = pytest.mark.slow

WIDTHS = (1280, 375)


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
