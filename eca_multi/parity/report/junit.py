"""The report as JUnit XML, which continuous integration shows without being taught: a suite for each runner.

A test is a case in a dtype under a check. What was not shown to be right never counts as passed: unsupported and
inconclusive tensors are skipped tests, and a report that is red for another reason than a test has an error of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from eca_multi._printable import printable

from .html.formats import index, plain, use
from .html.read import Row, mapping, number, rows, runner_names, sequence, text
from .html.verdicts import OPEN, fails

UNRUN = {"crashed": "error", "timed out": "error", "unavailable": "skipped"}  # what a runner's state counts as
COUNTS = {
    "failure": "failures",
    "error": "errors",
    "skipped": "skipped",
}  # an outcome, and the attribute with its number


def to_junit(report: Mapping[str, Any]) -> str:
    """Return the report as a JUnit XML document: equal reports give equal text.

    Args:
        report: The JSON report, schema 2. What it lacks is left out.

    Example:
        >>> from eca_multi.parity.report.junit import to_junit
        >>> print(to_junit({"exit_code": 0}))
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="eca-multi parity" tests="0" failures="0" errors="0" />
        <BLANKLINE>
    """
    root = ET.Element("testsuites", name="eca-multi parity")
    package = f"parity.{text(mapping(report, 'spec'), 'name') or 'spec'}"
    states = {text(state, "name"): state for state in rows(report, "runners")}
    required = [str(name) for name in sequence(report, "required")]
    results: dict[str, list[Row]] = {name: [] for name in dict.fromkeys([*runner_names(report), *sorted(required)])}
    for result in rows(report, "results"):
        results[text(result, "runner")].append(result)
    for runner, own in results.items():
        state = states.get(runner, {} if own else {"state": "unavailable"})
        root.append(_suite(f"{package}.{runner}", runner, state, own, runner in required))
    red = any(suite.get(name) != "0" for suite in root for name in ("failures", "errors"))
    if report.get("exit_code") != 0 and not red:
        root.append(_outcome(package, report.get("exit_code"), any(results.values())))
    for name in ("tests", "failures", "errors"):  # no "skipped": the schema of Jenkins has it on suites alone
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(name: str, runner: str, state: Row, results: Sequence[Row], required: bool) -> ET.Element:
    suite = ET.Element("testsuite", name=_legal(name))
    ended = text(state, "state") or "ran"
    properties = ET.SubElement(suite, "properties")
    facts = {"state": ended, **mapping(state, "versions")}
    for key in sorted(facts):
        ET.SubElement(properties, "property", name=_legal(key), value=_legal(facts[key]))
    jobs: dict[str, list[Row]] = {}
    for result in results:
        job = "-".join(text(result, key) or "unnamed" for key in ("case", "dtype", "check"))
        jobs.setdefault(job, []).append(result)
    for job, own in jobs.items():
        _judge(ET.SubElement(suite, "testcase", name=_legal(job), classname=_legal(name)), own)
    if ended in UNRUN:
        missing = required and ended == "unavailable"
        case = ET.SubElement(suite, "testcase", name="runner", classname=_legal(name))
        message = f"{runner}: {'required, but ' if missing else ''}{ended}"
        _mark(case, "failure" if missing else UNRUN[ended], ended, message, text(state, "detail").strip())
    return _counted(suite)


def _outcome(package: str, code: object, compared: bool) -> ET.Element:
    """A suite with one error, for a report that is red although none of its tests is."""
    suite = ET.Element("testsuite", name=_legal(package))
    case = ET.SubElement(suite, "testcase", name="outcome", classname=_legal(package))
    reason = "nothing conclusive" if code == 4 else f"the run ended with exit code {code}"
    _mark(case, "error", "outcome", reason if compared else "nothing was compared", "")
    return _counted(suite)


def _judge(case: ET.Element, results: Sequence[Row]) -> None:
    """Mark a test by the worst of its tensors: a disagreement, then an error, then what was not judged."""
    errors = [result for result in results if text(result, "verdict") == "ERROR"]
    failed = [result for result in results if fails(result) and result not in errors]
    skipped = [result for result in results if text(result, "verdict") in OPEN]
    kind, found = next(
        ((kind, found) for kind, found in (("failure", failed), ("error", errors), ("skipped", skipped)) if found),
        ("", []),
    )
    if found:
        shown = found + errors if kind == "failure" else found
        lines = [_describe(result, text(result, "reason").strip()) for result in shown]
        summary = _describe(found[0], text(found[0], "reason").strip().rpartition("\n")[2])
        _mark(case, kind, text(found[0], "verdict"), summary, "\n".join(lines))


def _describe(result: Row, reason: str) -> str:
    """What is wrong with a tensor, where and by how much, and why."""
    parts = [f"{text(result, 'tensor')}: {text(result, 'verdict')}"]
    measured, least, place = number(result, "budget_use"), number(result, "min_c"), index(result.get("index"))
    if fails(result):
        budget = "tolerance set by hand" if text(result, "budget") == "manual" else "budget"
        parts += [] if measured is None else [f"{use(measured)} x the {budget}"]
        parts += [f"at {place}"] if place else []
        parts += [f"{key} {text(result, key)}" for key in ("expected", "received") if text(result, key)]
        parts += [] if least is None else [f"passes from c = {plain(least)}"]
    return ", ".join(parts) + (f": {reason}" if reason else "")


def _mark(case: ET.Element, kind: str, type_: str, message: str, content: str) -> None:
    mark = ET.SubElement(case, kind, type=_legal(type_), message=_legal(message))
    mark.text = _legal(content) or None


def _counted(suite: ET.Element) -> ET.Element:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for kind, name in COUNTS.items():
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))
    return suite


def _legal(value: object) -> str:
    """The text as it is to be seen: XML 1.0 cannot write controls and half characters at all."""
    return printable(str(value).replace("\r\n", "\n"), lines=True)
