"""The page of recorded gates: it stands alone, hostile text stays text, and a browser shows it well."""

import json
import re

import numpy as np
import pytest

from eca_multi.gates import GateRecord, LayerGates, to_html, to_json
from tests.support.browser import GROUNDS, SCHEMES, frame, visit
from tests.support.gate_records import record
from tests.support.report_pages import ATTACK, Outline, sections

WIDTHS = (1280, 360)


def hostile():
    made = GateRecord("torch" + ATTACK, "Net" + ATTACK)
    layer = LayerGates("eca" + ATTACK, 3, np.zeros(3), gate="gate" + ATTACK)
    made.add(layer, np.array([[np.nan, 0.5, 2.5]]), ["cat" + ATTACK])
    made.add(LayerGates("eca2", 3, np.ones(3)), np.full((1, 3), 0.5), ["dog"])
    return made


def test_it_shows_every_layer_in_every_section():
    page = to_html(record())
    assert sections(page) == ["depth", "channels", "histograms", "kernels", "numbers"]
    assert page.count('role="img"') == 2 + 3 * 3
    assert "1 of 3 ECAs does nothing on this data" in page
    assert "Within 0.001 of a constant: layer3.0.eca." in page
    assert "none idle on this data" in to_html(record(idle=False))  # the control


def test_the_numbers_are_those_of_the_record():
    made = record()
    rows = to_html(made).partition('id="numbers"')[2]
    for layer in made.values():
        for value in (layer.mean.mean(), layer.minimum.min(), layer.maximum.max(), layer.constant):
            assert f'<td class="number">{value:.4f}</td>' in rows


def test_it_stands_alone_and_its_ids_are_its_own():
    page = to_html(record())
    outline = Outline(page)
    assert len(outline.ids()) == len(set(outline.ids()))
    assert not {"script", "img", "link", "iframe"} & outline.tags()
    linked = [attributes.get("href") or attributes.get("src") or "" for _, attributes in outline.elements]
    assert [link for link in linked if link and not link.startswith("#")] == []
    assert "default-src &#39;none&#39;" in page
    assert to_html(record()) == page


def test_hostile_text_stays_text():
    outline = Outline(to_html(hostile()))
    assert not {"script", "img", "i"} & outline.tags()
    assert not [name for _, attributes in outline.elements for name in attributes if name.startswith("on")]
    assert any("<img src=x onerror=" in text for text in outline.text)
    to_html(hostile()).encode()


def test_without_classes_there_is_no_legend():
    assert 'aria-label="Classes"' not in to_html(record(labels=()))
    assert 'aria-label="Classes"' in to_html(record())


def test_of_many_classes_six_are_shown_and_it_says_so():
    page = to_html(record(channels=(4,), labels=tuple(range(4))))
    assert "4 classes</p>" in page
    made = record(channels=(4,), labels=())
    made.add(made["layer1.0.eca"], np.full((9, 4), 0.5), list(range(9)))
    assert "9 classes, 6 of them shown" in to_html(made)


def test_as_json_a_record_has_all_but_its_raw_rows():
    made = record()
    content = json.loads(to_json(made))
    assert (content["schema"], content["framework"], content["network"]) == (1, "torch", "Net")
    for found, layer in zip(content["layers"], made.values(), strict=True):
        assert (found["path"], found["count"], found["kernel_size"]) == (layer.path, layer.count, layer.kernel_size)
        np.testing.assert_array_equal(found["mean"], layer.mean)
        np.testing.assert_array_equal(found["kernel"], layer.kernel)
        assert [one["label"] for one in found["classes"]] == list(layer.classes)
    assert json.loads(to_json(hostile()))["layers"][0]["mean"][0] is None  # JSON has no NaN


@pytest.mark.parametrize("write", [to_html, to_json])
def test_what_is_no_record_is_refused(write):
    with pytest.raises(TypeError, match=re.escape("record must be a record of gates. Received: a list.")):
        write([])


PAGES = {"full": record, "hostile": hostile, "one": lambda: record(channels=(1,), labels=(), idle=False)}


@pytest.fixture(scope="module", params=SCHEMES)
def seen(request, tmp_path_factory):
    """All pages in all widths, found in one visit for each scheme."""
    places = [(page, width) for page in PAGES for width in WIDTHS]
    made = {name: to_html(make()) for name, make in PAGES.items()}
    frames = [frame(made[page], width) for page, width in places]
    found = visit(frames, tmp_path_factory.mktemp("browser"), request.param)
    return request.param, dict(zip(places, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_the_page_well(seen, page, width):
    """tests/parity/test_report_browser.py proves that each of these findings can be made."""
    scheme, found = seen[0], seen[1][page, width]
    assert (found["width"], found["overflow"], found["clipped"]) == (width, 0, [])
    assert found["dark"] == (scheme == "dark")
    assert found["background"] == GROUNDS[scheme]
    assert found["pictures"] >= 4
    assert (found["unseen"], found["outside"], found["touching"]) == ([], [], [])
    assert found["contrast"][0] >= 4.5, found["contrast"]
    assert found["smallest"][0] >= 10, found["smallest"]  # pixels
    assert (found["scripts"], found["fetched"]) == (0, 0)
