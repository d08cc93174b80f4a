"""Text from outside at every border: terminal, exceptions, HTML, JUnit, names of files. It is seen, and does nothing.

A hostile text stands in every place that a file, a worker or a specification fills. What comes out may hold no
character that is not seen as itself, and must hold the text as it was, with these characters as Python writes them.
"""

import io
import json
import os
import re
import string
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from safetensors.numpy import save_file
from typer.testing import CliRunner

from eca_multi import parity
from eca_multi._printable import file_name, printable
from eca_multi.checkpoints import CheckpointError, ConversionReport, read_checkpoint
from eca_multi.checkpoints.compare import Report
from eca_multi.cli.main import app
from eca_multi.parity import Case, NumpyAdapter, Spec, SpecError, Verdict
from eca_multi.parity.execute.state import RunnerState
from eca_multi.parity.explain.localize import Localisation
from eca_multi.parity.judge.cell import Cell
from eca_multi.parity.judge.compare import Judgement
from eca_multi.parity.judge.power import Power
from eca_multi.parity.pytest.outcome import Outcome, failure
from eca_multi.parity.report.html import to_html
from eca_multi.parity.report.json import as_json, check_content
from eca_multi.parity.report.junit import to_junit
from eca_multi.parity.report.terminal import summary
from eca_multi.surgery.entry import ECAEntry, Skipped
from eca_multi.surgery.errors import PlanMismatchError
from eca_multi.surgery.plan import ECAPlan

# The text, and what is to be seen of it.
TEXTS = {
    "plain": ("conv.weight", "conv.weight"),
    "colour": ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
    "title and clipboard": ("\x1b]0;t\x07\x1b]52;c;QQ==\x07", r"\x1b]0;t\x07\x1b]52;c;QQ==\x07"),
    "screen": ("\x1b[2J\x1b[Hgone", r"\x1b[2J\x1b[Hgone"),
    "escape in one character": ("\x9b31mred", r"\x9b31mred"),
    "backspaces": ("bad\b\b\bok", r"bad\x08\x08\x08ok"),
    "carriage return": ("bad\rok", r"bad\rok"),
    "another line": ("w\nAll agree: 5 of 5", r"w\nAll agree: 5 of 5"),
    "other lines": ("a\x0bb\x0cc\x85d\u2028e", r"a\x0bb\x0cc\x85d\u2028e"),
    "order of text": ("\u202egnp.w\u2066", r"\u202egnp.w\u2066"),
    "not seen": ("w\u200b\ufeff\U000e0041", r"w\u200b\ufeff\U000e0041"),
    "half a character": ("w\ud800", r"w\ud800"),
    "zero": ("w\0v", r"w\x00v"),
    "markup of Rich": ("out[q] [bold]x[/bold] [/] [link=http://a]b[/link]",) * 2,
    "emoji of Rich": (":smile: :warning:",) * 2,
    "a style of Rich": ("[red on white]w",) * 2,
    "markup of a page": ("<script>alert(1)</script>&\"'><img src=x onerror=y>",) * 2,
    "end of a section": ("]]></failure><!--",) * 2,
    "letters": ("größe.重み",) * 2,
}


def every(*left_out: str) -> pytest.MarkDecorator:
    """All texts at once, and each alone as a slow test."""
    texts = {name: pair for name, pair in TEXTS.items() if name not in left_out}
    alone = [pytest.param(*pair, id=name, marks=pytest.mark.slow) for name, pair in texts.items()]
    at_once = ("|".join(column) for column in zip(*texts.values(), strict=True))
    return pytest.mark.parametrize(("text", "seen"), [pytest.param(*at_once, id="all"), *alone])


# Not `printable`'s own list: what a terminal obeys, what turns text around, what is not seen, what UTF-8 cannot hold.
OBEYED = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def check(output: str, seen: str, *, somewhere: bool = True) -> None:
    """Assert that nothing in the output is obeyed, and that the text is there as it is."""
    assert not OBEYED.findall(output)
    assert "\nAll agree: 5 of 5" not in output
    assert not somewhere or seen in output, output


def cli(*args, columns=3000):
    done = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": str(columns)})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def report_of(text: str) -> parity.Report:
    """A report with the text in every place."""
    detail = text if "\n" not in text else "detail"  # which has lines
    exceeds = Judgement(Verdict.EXCEEDS_BUDGET, 2.0, (1,), text, text, {"max_abs": 1.0})
    chain = ({"tap": text, "direction": text, "propagated": 2.0, "isolated": 2.0, "verdict": text},)
    localised = Localisation(
        text, text, "float32", text, text, text, chain, {text: 3}, text, "eca-multi parity replay x"
    )
    return parity.Report(
        [RunnerState(text, "crashed", detail, {text: text}, {text: text, "sigmoid": text})],
        [
            Cell(text, text, "float32", "forward", text, exceeds, "analytic"),
            Cell(text, text, "float32", "compiled", text, Judgement(Verdict.UNSUPPORTED), reason=text),
            Cell(text, text, "float32", "mixed", text, Judgement(Verdict.ERROR), reason=text),
        ],
        required=(text,),
        environment={"python": text, "platform": text, "processor": text, "numpy": text},
        spec={"name": text, "source": text, "hash": text, "layout": text, "budget": "analytic", "c": 1.0},
        cases=({"name": text, "why": text},),
        localisations=[localised],
        power=[Power(text, "float32", (text,), (text,), (text,)), Power(text, "float16", (), (text,))],
        replay="eca-multi parity replay x",
    )


# --- the terminal ----------------------------------------------------------------------------------------------------


@every("half a character")  # which is in no safetensors file: they are UTF-8
def test_compare_shows_the_names_of_tensors(tmp_path, text, seen):
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({text: np.full(3, value, np.float32)}, tmp_path / name)
    done = cli("parity", "compare", tmp_path / "a", tmp_path / "b")
    assert done.exit_code == 1
    check(done.output, seen)


@every()
def test_report_shows_what_is_in_a_file(tmp_path, text, seen):
    (tmp_path / "report.json").write_text(as_json(report_of(text).to_dict()))
    done = cli("parity", "report", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    check(done.output, seen)


@every()
def test_report_says_what_is_wrong_with_a_file(tmp_path, text, seen):
    content = {**report_of("x").to_dict(), "runners": text}
    (tmp_path / "report.json").write_text(json.dumps(content))
    done = cli("parity", "report", tmp_path / "report.json")
    assert done.exit_code == 2
    check(done.output, seen, somewhere=False)  # cut into the lines of a frame


@every()
def test_run_and_localize_show_what_workers_say(monkeypatch, text, seen):
    monkeypatch.setattr(parity, "run", lambda *args, **options: report_of(text))
    monkeypatch.setattr(parity, "replay", lambda *args, **options: report_of(text))
    for command in (["run"], ["replay", "bundle"], ["localize", "bundle"], ["power"]):
        done = cli("parity", *command)
        assert done.exit_code in (1, 4), done.output
        check(done.output, seen)


@every()
def test_fingerprint_and_doctor_show_what_workers_say(monkeypatch, text, seen):
    states = report_of(text).runners
    monkeypatch.setattr(parity, "fingerprints", lambda *args, **options: states)
    monkeypatch.setattr("eca_multi.parity.doctor.fingerprints", lambda *args, **options: states)
    for command in ("fingerprint", "doctor"):
        check(cli("parity", command).output, seen)


@every()
def test_list_shows_a_specification(monkeypatch, text, seen):
    runner = SimpleNamespace(name=text, unavailable=lambda: text)
    monkeypatch.setattr("eca_multi.parity.define.runners.runners_of", lambda spec: [runner])
    spec = SimpleNamespace(cases=[SimpleNamespace(name=text, why=text)])
    monkeypatch.setattr("eca_multi.parity.specs.find_spec", lambda wanted: (spec, ""))
    check(cli("parity", "list").output, seen)


FAULTS = {"usage": SpecError, "disk": OSError, "ours": RuntimeError}


@pytest.mark.parametrize("kind", FAULTS)
@every()
def test_a_command_that_fails_shows_why(monkeypatch, text, seen, kind):
    def run(*args, **options):
        raise FAULTS[kind](text.replace("\n", " "))

    monkeypatch.setattr(parity, "run", run)
    done = cli("parity", "run")
    assert done.exit_code == (2 if kind == "usage" else 3)
    check(done.output, seen.replace(r"\n", " "), somewhere=kind == "disk")


@every()
def test_colours_are_ours_alone(text, seen):
    from eca_multi._terminal import Terminal
    from eca_multi.parity.report.terminal import (
        print_chain,
        print_comparison,
        print_doctor,
        print_fingerprints,
        render,
    )

    report = report_of(text)
    console = Terminal(
        file=io.StringIO(), force_terminal=True, width=3000, color_system="standard", legacy_windows=False
    )
    render(report, console, 1.0)
    print_chain(report.localisations[0], console)
    print_comparison({text: report.cells[0].judgement}, console)
    print_doctor([SimpleNamespace(state="ok", what=text, detail=text.replace("\n", " "))], console)
    print_fingerprints(report.runners, console)
    output = console.file.getvalue()
    assert "\x1b[1;31m" in output  # it does print colours
    check(re.sub(r"\x1b\[[\d;]*m", "", output), seen)


@pytest.mark.parametrize("text", ["\x1b[31mred", "w\u202ev"])
def test_without_the_sanitiser_the_check_fails(monkeypatch, tmp_path, text):
    """The control of all tests above."""
    monkeypatch.setattr("eca_multi._terminal.printable", lambda text, lines=False: str(text))
    monkeypatch.setattr(parity, "run", lambda *args, **options: report_of(text))
    with pytest.raises(AssertionError, match="findall"):
        check(cli("parity", "run").output, printable(text))


def test_with_the_markup_of_rich_the_check_fails(monkeypatch):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=3000)
    console.print("[bold]out[q][/bold]")
    with pytest.raises(AssertionError, match=r"out\[q\]"):
        check(console.file.getvalue(), "[bold]out[q][/bold]")


@every("half a character")  # which is in no safetensors file: they are UTF-8
def test_convert_shows_the_names_in_a_checkpoint(tmp_path, text, seen):
    save_file({text: np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    done = cli("convert", tmp_path / "model.safetensors", tmp_path / "model.pth", "--to", "torch")
    assert done.exit_code == 2
    check(done.output, seen)
    with pytest.raises(CheckpointError, match=re.escape(seen)) as caught:
        read_checkpoint(tmp_path / "model.safetensors")
    check(str(caught.value), seen)


@every()
def test_the_records_of_a_conversion_are_printable(text, seen):
    report = Report((text,), (text,), (text,), ((text, (1,), (2,)),))
    check(str(report), seen)
    check(
        str(ConversionReport(Path(text), Path(text), text, text, text, text, (3,), report, {"num_classes": text})), seen
    )


# --- plans, exceptions, pytest ---------------------------------------------------------------------------------------


def plan_of(text: str) -> ECAPlan:
    fields = {"module_type": text, "tensor": text, "into": text, "aliases": (text,), "notes": (text,)}
    entries = (ECAEntry(text, channels=8, **fields), ECAEntry("plain", channels=8))
    return ECAPlan("torch", text, text, text, text, entries=entries, skipped=(Skipped(text, text),), notes=(text,))


@every()
def test_a_plan_from_a_file_prints_as_it_is(tmp_path, text, seen):
    (tmp_path / "plan.json").write_text(json.dumps(json.loads(json.dumps(plan_of(text).__dict__, default=vars))))
    plan = ECAPlan.load(tmp_path / "plan.json")
    check(str(plan), seen)
    heads = [line for line in str(plan).splitlines() if line.startswith(("site ", "plain "))]
    assert len({line.rstrip().rpartition("  ")[0].count("\n") for line in heads}) == 1


@pytest.mark.parametrize("error", [SpecError, CheckpointError, PlanMismatchError, parity.ParityError])
@every()
def test_errors_of_ours_are_printable(text, seen, error):
    name = text.replace("\n", " ")  # messages have lines of their own
    check(str(error(f"a tensor {name} is wrong\nand so on")), seen.replace(r"\n", " "))


@every()
def test_an_unreadable_plan_says_so_printably(text, seen):
    with pytest.raises(ValueError, match="plan must be the JSON of an ECAPlan") as caught:
        ECAPlan.from_json(json.dumps({"schema": 1, "framework": "torch", "model": "Net", text: 1}))
    check(str(caught.value), seen, somewhere=False)  # a reason is cut


@every()
def test_what_pytest_shows_is_printable(text, seen):
    report = report_of(text)
    name = text.replace("\n", " ")
    place = (name, "float32", "forward")
    case = SimpleNamespace(
        runner=name, case=name, dtype="float32", check="forward", source=name, argument=name, place=place
    )
    for shown in (Outcome(skip=name, crash=name).skip, Outcome(skip=name, crash=name).crash):
        check(shown, seen.replace(r"\n", " "))
    check(summary(report, width=3000, colour=False), seen)
    cells = [replace_all(cell, name) for cell in report.cells]
    check(failure(case, report_of(name), cells, cells[:1], name), seen.replace(r"\n", " "))


def replace_all(cell: Cell, text: str) -> Cell:
    judgement = Judgement(Verdict.EXCEEDS_BUDGET, 2.0, (1,), text, text)
    return Cell(text, text, cell.dtype, cell.check, text, judgement, cell.budget)


# --- pages and XML ---------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """What a browser makes of a page: its tags, the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.kinds, self.words = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.kinds.add((tag, *sorted(name for name, _ in attrs)))
        self.words += [value or "" for _, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


HARMLESS = set().union(*(Tags(to_html(report_of(text).to_dict())).kinds for text in ("conv.weight", "a b\n" * 40)))


@every()
def test_a_page_has_the_text_and_nothing_of_its_own(text, seen):
    page = to_html(report_of(text).to_dict())
    assert not OBEYED.findall(page)
    page.encode()
    found = Tags(page)
    assert found.kinds <= HARMLESS
    assert seen.replace(r"\n", "\n") in "\0".join(found.words)


def test_a_page_that_does_not_escape_would_be_found():
    """The control of the test above."""
    text, _ = TEXTS["markup of a page"]
    page = to_html(report_of(text).to_dict()).replace(str(escape(text)), text, 1)
    assert Tags(page).kinds - HARMLESS == {("script",), ("img", "onerror", "src")}


@every()
def test_junit_is_xml_with_the_text(text, seen):
    document = to_junit(report_of(text).to_dict())
    assert not OBEYED.findall(document)
    root = ElementTree.fromstring(document.encode())
    names = [value for element in root.iter() for value in (*element.attrib.values(), element.text or "")]
    assert any(seen.replace(r"\n", "\n") in name for name in names)


@pytest.mark.parametrize(
    "command",
    ["rm -rf ~", "eca-multi parity replay x; id", "eca-multi parity replay $(id)",
     "eca-multi parity replay x --trust --trust", "eca-multi parity replay --trust", "eca-multi parity replay 'x",
     "eca-multi parity replay x\nid", 3, None],
)  # fmt: skip
@pytest.mark.parametrize("place", ["report", "localisation"])
def test_a_report_has_no_command_but_ours_to_copy(command, place):
    content = report_of("x").to_dict()
    assert check_content(content) is content
    (content if place == "report" else content["localisations"][0])["replay"] = command
    with pytest.raises(ValueError, match=r"replay is .*, expected"):
        check_content(content)


@pytest.mark.parametrize("place", ["report", "localisation"])
def test_a_report_from_a_file_asks_for_no_trust(place):
    content = report_of("x").to_dict()
    part = content if place == "report" else content["localisations"][0]
    part["replay"] = "eca-multi parity replay x --trust"
    check_content(content)
    assert part["replay"] == "eca-multi parity replay x"


# --- names of files --------------------------------------------------------------------------------------------------

NAMES = [
    *(text for text, _ in TEXTS.values()),
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "a:b",
    "a b",
    "a-b",
    "a--b",
    "..",
    ".",
]
NAMES += ["", "-rf", ".hidden", "x" * 300, "x" * 301, "重" * 300, "$(id)", "*", "~", "CON\0"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_of_a_file_is_one_and_plain(name):
    made = file_name(name)
    assert set(made) <= set(string.ascii_letters + string.digits + "_.+=,@-")
    assert made[0] not in "-."
    assert "--" not in made
    assert 0 < len(made.encode()) <= 120


def test_no_two_names_are_one_file():
    assert len({file_name(name) for name in NAMES}) == len(set(NAMES))


def test_what_is_a_plain_name_stays_as_it_is():
    for name in ("keras-jax", "torch", "same-sign", "offsets+nan", "layer1.0.bn2"):
        assert file_name(name) == name


# --- a run of workers ------------------------------------------------------------------------------------------------


class Talks(NumpyAdapter):
    """Says hostile things wherever a worker can, and then dies."""

    def build(self, config):
        os.write(2, b"\x1b[2Jlast words\x07\xff\n")
        os._exit(3)


class Raises(NumpyAdapter):
    def build(self, config):
        raise RuntimeError("\x1b[31mred\x1b[0m \ud800 \u202e [bold]x[/bold]")


def double(inputs, weights):
    return inputs["x"] * 2


HOSTILE = Spec(
    "\x1b[31mSpec",
    "N C",
    weights={},
    runners={"\x1b[2Jn/../x": Talks, "[bold]n": Raises},
    cases=(Case("small", why="\u202e\x1b[1m[red]"),),
    reference=double,
)


@pytest.mark.slow
def test_a_run_of_hostile_workers(tmp_path):
    files = [f"--{kind}={tmp_path / kind}" for kind in ("json", "html", "junit")]
    done = cli("parity", f"{__file__}:HOSTILE", "--dtype", "float32", "--check", "forward", *files)
    assert done.exit_code == 3, done.output
    for shown in (done.output, *((tmp_path / kind).read_text() for kind in ("json", "html", "junit"))):
        assert not OBEYED.findall(shown)
    assert r"\x1b[31mred\x1b[0m \ud800 \u202e [bold]x[/bold]" in done.output
    assert r"\x1b[2Jlast words\x07" in done.output
