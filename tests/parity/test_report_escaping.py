"""The HTML report is safe: hostile text stays text, and no key, number or kind of value breaks the page."""

import pytest

from eca_multi._page.svg import clean
from eca_multi.parity.report.html import to_html
from tests.support.report_pages import (
    ATTACK,
    Outline,
    everywhere,
    poison,
    same_pictures_are_drawn_once,  # noqa: F401  # a fixture
    small,
    tiny,
    with_,
    without,
)

pytestmark = pytest.mark.usefixtures("same_pictures_are_drawn_once")


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


@pytest.mark.slow
def test_any_key_may_be_missing():
    for path in everywhere(tiny()):
        assert Outline(to_html(without(tiny(), path))).elements


@pytest.mark.parametrize("wrong", [None, "text", -1.5, float("nan"), [None], {"a": None}], ids=repr)
def test_any_value_may_be_of_another_kind(wrong):
    for path in everywhere(tiny()):
        assert to_html(with_(tiny(), path, wrong)).endswith("</html>\n")
