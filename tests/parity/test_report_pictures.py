"""The pictures of a page: their axes, their colours, and the text in them."""

import re
import sys
import warnings

import matplotlib
import pytest

from eca_multi._page import svg
from eca_multi.parity.report.html import to_html
from eca_multi.parity.report.html.pictures import LogAxis
from tests.support.report_pages import REPORT, Outline, full_page, section, tiny

PICTURES = re.compile("<svg.*?</svg>", re.DOTALL)


def drawn(*words):
    """A picture of some words."""

    def paint(figure):
        for place, text in enumerate(words):
            figure.text(0.1, 0.1 + 0.2 * place, text)

    return svg.draw(paint, (), (100, 60), "words", "salt")


def words_in(picture):
    return [text for text in Outline(picture).text if text.strip()]


def test_a_logarithmic_axis_has_whole_decades_and_a_place_for_zero():
    axis = LogAxis([0.0, 3e-4, 20.0])
    assert (axis.low, axis.high) == (-4, 2)
    assert axis.limits[0] < axis(0.0) < axis(1e-4) < axis(1.0) < axis(100.0) == axis.limits[1]
    assert list(axis.decades().values()) == ["0", "10⁻⁴", "10⁻²", "1", "10²"]
    assert LogAxis([3e-4, 20.0]).limits == (-4, 2)


def test_an_axis_of_steps_is_marked_in_round_numbers():
    assert list(LogAxis([1, 200], tight=True).round_numbers().values()) == [
        "1",
        "2",
        "5",
        "10",
        "20",
        "50",
        "100",
        "200",
    ]


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [5e-324, 1.7e308]])
@pytest.mark.parametrize("tight", [True, False])
def test_any_numbers_have_an_axis(values, tight):
    axis = LogAxis(values, tight=tight)
    low, high = axis.limits
    assert all(low <= axis(value) <= high for value in values)
    assert axis.decades()
    assert axis.round_numbers()


def test_every_picture_is_named_and_has_its_table():
    outline = Outline(full_page())
    named = [a for tag, a in outline.elements if tag == "svg"]
    assert len(named) == 17
    assert all(a["role"] == "img" and a["aria-label"] for a in named)
    for name, tables in {"matrix": 1, "chain": 2, "scatter": 6, "histogram": 1, "drift": 3}.items():
        assert section(full_page(), name).count("The same as a table") == tables, name


def test_the_tables_hold_the_numbers_of_the_pictures():
    text = " ".join(" ".join(Outline(full_page()).text).split())
    assert "↑ d_conv 48.1 0.3 exceeds budget" in text
    assert re.search(r"float32 · torch-compiled · same-sign · y · 0.80 . budget 180( \d+){10} 0", text)
    rank = [row for row in REPORT["trajectories"] if (row["runner"], row["dtype"]) == ("torch", "float32")]
    assert f"200 {rank[0]['drift'][-1]:.2e}".replace("e-0", "e-") in text


def test_the_colours_of_pictures_are_those_of_the_page():
    """No colour of a picture is fixed, so that all follow the light or dark page."""
    pictures = PICTURES.findall(full_page())
    assert not [
        found for picture in pictures for found in re.findall(r"#[0-9a-f]{3,8}\b", picture) if "url" not in found
    ]
    used = {name for picture in pictures for name in re.findall(r"var\(--([a-z0-9-]+)\)", picture)}
    assert used <= set(svg.COLOURS)
    assert not [
        text for picture in pictures for text in re.findall("<text[^>]*>", picture) if "fill: var(--" not in text
    ]
    for name in svg.COLOURS:
        assert full_page().count(f"--{name}: #") == 2, f"{name} is not defined for light and for dark"


def test_a_colour_that_is_not_the_pages_would_be_found():
    def paint(figure):
        figure.text(0.1, 0.1, "word", color="#123456")

    assert "#123456" in svg.draw(paint, (), (100, 60), "words", "salt")


def test_text_is_text():
    hostile = '<b>&amp;</b> $x^2$ #000001 style="fill: #000001" \u4e2d\u6587'
    picture = drawn(hostile)
    assert words_in(picture) == [hostile]
    assert "<b>" not in picture


def test_the_label_of_a_picture_is_escaped_and_printable():
    picture = svg.draw(lambda figure: None, (), (100, 60), 'a"><script>\x1b\u202e', "salt")
    assert "script" not in Outline(picture).tags()
    (label,) = [a["aria-label"] for tag, a in Outline(picture).elements if tag == "svg"]
    assert label == 'a"><script>\\x1b\\u202e'


def test_settings_of_the_user_change_nothing_and_are_left_alone(monkeypatch):
    page = to_html(tiny())
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "text.parse_math": True, "svg.fonttype": "path"}):
        assert to_html(tiny()) == page
        assert matplotlib.rcParams["font.size"] == 30
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()


def test_letters_that_matplotlib_lacks_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words_in(drawn("\u4e2d\u6587")) == ["\u4e2d\u6587"]
