"""Pages of reports for tests: written once, taken apart, and made of reports with something wrong in them."""

import copy
from functools import cache
from html.parser import HTMLParser

import pytest

from eca_multi._page import svg
from eca_multi.parity.report.html import to_html
from tests.support import report_fixture
from tests.support.report_fixture import HOSTILE

REPORT = report_fixture.make()

_DRAW = cache(svg.draw)


@pytest.fixture
def same_pictures_are_drawn_once(monkeypatch):
    """Pictures are slow to draw, and most of the reports that a test changes have the same ones."""
    monkeypatch.setattr(svg, "draw", lambda *args: _DRAW(*args[:3], "a label", "a salt"))


@cache
def full_page():
    return to_html(REPORT)


def section(page, name):
    """Return the part of a page between the heading of a section and its end."""
    start = page.index(f'<section id="{name}"')
    return page[start : page.index("</section>", start)]


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
