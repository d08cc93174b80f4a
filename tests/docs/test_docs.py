"""The README and the pages in docs/ are true: their code runs, and their tables say what the package says."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from eca_multi import eca_kernel_size, parity
from eca_multi._canonical import native_shape
from eca_multi.cli.parity import app as parity_app
from eca_multi.parity.define.runners import runners_of
from eca_multi.parity.specs.eca import SPEC
from tests.ground.test_errors import TABLE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONAL = ("equinox", "haiku")  # of the docs alone; `pip install -e .[dev]` has them
LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_code(pages: list[Path]) -> list[object]:
    """A page on Keras runs on every backend, the others once; the walks train networks, which takes a while."""
    result = []
    for page in pages:
        marks = [pytest.mark.keras] if any("keras" in code for code in BLOCK.findall(page.read_text())) else []
        marks += [pytest.mark.slow] if page.stem.startswith(("surgery-", "parity")) else []
        result.append(pytest.param(page, marks=marks))
    return result


# The pages on ultralytics run where it can be installed: tests/ultralytics/test_pages.py.
RUN_HERE = [page for page in PAGES if page.stem != "yolo"]


@pytest.mark.parametrize("page", with_code(RUN_HERE), ids=name_of)
def test_code_runs(page, tmp_path, monkeypatch):
    """A block runs on its own, except on pages that walk from one block to the next."""
    monkeypatch.chdir(tmp_path)
    walk, missing = {}, set()
    for number, code in enumerate(BLOCK.findall(page.read_text())):
        name = f"{page.name}, block {number + 1}"
        absent = {one for one in OPTIONAL if f"import {one}" in code and find_spec(one) is None}
        if absent:
            missing |= absent
            continue
        names = walk if page.stem.startswith(("surgery", "networks", "porting")) else {}
        names["__name__"] = name
        exec(compile(code, name, "exec"), names)
    if missing:
        pytest.skip(f"{', '.join(sorted(missing))} is not installed: the page's other blocks ran")


def test_a_broken_block_would_be_found():
    broken = "text\n```python\nfrom eca_multi.torch import ECA\nassert ECA(8).kernel_size == 5, 'it is 3'\n```\n"
    (code,) = BLOCK.findall(broken)
    with pytest.raises(AssertionError, match="it is 3"):
        exec(code, {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_examples_have_at_most_six_lines_of_code():
    for code in BLOCK.findall((ROOT / "README.md").read_text()):
        assert len([line for line in code.splitlines() if line.strip()]) <= 6, code


def test_the_parity_page_lists_every_case():
    section = (ROOT / "docs/parity.md").read_text().split("## The cases of ECA")[1].split("##")[0]
    listed = re.findall(r"^\| ([a-z0-9-]+) \|", section, re.MULTILINE)[1:]
    assert listed == [case.name for case in SPEC.cases]


def test_the_parity_page_lists_every_check_verdict_and_command():
    text = (ROOT / "docs/parity.md").read_text()

    def listed(section: str) -> set[str]:
        rows = re.findall(r"^\| ([^|]*) \|", text.split(f"## {section}\n")[1].split("\n## ")[0], re.MULTILINE)
        return {name.strip() for row in rows for name in row.split(",")}

    assert listed("Checks") >= set(parity.CHECKS)
    assert listed("Verdicts") >= set(parity.Verdict)
    table = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    shown = {name.split()[0] for row in table for name in re.findall(r"`([^`]*)`", row)}
    assert shown == {command.name or command.callback.__name__ for command in parity_app.registered_commands}


def test_the_readme_shows_every_runner():
    table = (ROOT / "README.md").read_text().split("<!-- parity table")[1].split("```")[1]
    shown = [line.split()[0] for line in table.strip().splitlines() if not line.startswith(" ")]
    names = [runner.name for runner in runners_of(SPEC)]
    assert [name for name in shown if name != "runner"][: len(names)] == names


def test_the_rule_table_is_right():
    text = (ROOT / "docs/eca.md").read_text()
    header, sizes = re.search(r"\| C \|(.*)\|\n.*\n\| k \|(.*)\|", text).groups()
    for interval, k in zip(header.split("|"), sizes.split("|"), strict=True):
        low, high = map(int, interval.split("\u2013"))
        assert eca_kernel_size(low) == eca_kernel_size(high) == int(k)
        assert eca_kernel_size(high + 1) == int(k) + 2


def test_the_weight_table_is_right():
    text = (ROOT / "docs/weights.md").read_text()
    assert "| torch | `conv.weight` | (1, 1, k) | (C, 1, k) |" in text
    assert "| keras, linen, nnx | `kernel` | (k, 1, 1) | (k, 1, C) |" in text
    assert native_shape("torch", 64, 5) == (64, 1, 5)
    assert {native_shape(f, 64, 5) for f in ("keras", "linen", "nnx")} == {(5, 1, 64)}


def shape_of(message: str) -> str:
    """A message without its numbers."""
    return re.sub(r"-?[0-9]+", "#", message)


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE)
def test_the_errors_page_has_every_message(bad):
    page = (ROOT / "docs/errors.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (\w+Error) \| `(.*?)`", page, re.MULTILINE)
    kinds = {
        kind
        for row, kind, message in rows
        if shape_of(bad.text).startswith(shape_of(message))
        for kind in ((kind, "TypeError") if "TypeError where" in row else (kind,))
    }
    assert bad.error.__name__ in kinds, bad.text
