"""The report as JUnit XML, which continuous integration shows without an extension: a suite for each runner.

A test is a case in a dtype under a check. What was not shown to be right never counts as passed: unsupported and
inconclusive tensors, and the rounding of a framework, are skipped tests, and a report that is red for another reason
than a test has an error of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from eca_multi._printable import printable

from .view import View
from .view.causes import Cause
from .view.results import Result
from .view.wording import reach_words

# The outcome of a test that stands for a runner, by the runner's state.
UNRUN = {"crashed": "error", "timed out": "error", "unavailable": "skipped"}
# The outcomes of a test, and the attributes with their numbers.
COUNTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


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
    view = View(report)
    root = ET.Element("testsuites", name="eca-multi parity")
    package = f"parity.{view.name or 'spec'}"
    for runner in dict.fromkeys([*view.runner_names, *view.required]):
        _add_suite(root, view, runner, f"{package}.{runner}")
    _add_sight(root, view, f"{package}.cannot-see")
    red = any(suite.get(name) != "0" for suite in root for name in ("failures", "errors"))
    if not view.agrees and not red:  # for another reason than a test
        suite = ET.SubElement(root, "testsuite", name=_legal(package))
        case = ET.SubElement(suite, "testcase", name="outcome", classname=_legal(package))
        _mark(case, "error", "outcome", view.outcome, ", ".join(view.counts))
        _count(suite)
    for name in ("tests", "failures", "errors"):  # no "skipped": the schema of Jenkins has it on suites alone
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _add_suite(root: ET.Element, view: View, runner: str, name: str) -> None:
    suite = ET.SubElement(root, "testsuite", name=_legal(name))
    state = next((item for item in view.runners if item.name == runner), None)
    ended = view.state_of(runner)
    properties = ET.SubElement(suite, "properties")
    facts: dict[str, Any] = {"state": ended, **(state.versions if state else {})}
    if without := view.without_result_of(runner):
        facts["without_result"] = without
    for key in sorted(facts):
        ET.SubElement(properties, "property", name=_legal(key), value=_legal(facts[key]))
    jobs: dict[str, list[Result]] = {}
    for result in (result for result in view.results if result.runner == runner):
        job = "-".join(part or "unnamed" for part in (result.case, result.dtype, result.check))
        jobs.setdefault(job, []).append(result)
    causes = {result: cause for cause in view.causes for result in cause.results}
    told: dict[Cause, str] = {}  # the test that has the whole text of a cause
    for job, results in jobs.items():
        case = ET.SubElement(suite, "testcase", name=_legal(job), classname=_legal(name))
        _judge(case, results, view.strict, _same_as(job, results, causes, told))
        _add_reach(case, results)
    if ended in UNRUN:
        missing = runner in view.missing
        case = ET.SubElement(suite, "testcase", name="runner", classname=_legal(name))
        message = f"{runner}: {'required, but ' if missing else ''}{ended}"
        _mark(case, "failure" if missing else UNRUN[ended], ended, message, state.detail.strip() if state else "")
    _count(suite)


def _add_sight(root: ET.Element, view: View, name: str) -> None:
    """Add a skipped test for each case and dtype that cannot see some fault: green says nothing of that fault."""
    blind = [sight for sight in view.sights if sight.unseen or sight.reason]
    if not blind:
        return
    suite = ET.SubElement(root, "testsuite", name=_legal(name))
    for sight in blind:
        case = ET.SubElement(suite, "testcase", name=_legal(f"{sight.case}-{sight.dtype}"), classname=_legal(name))
        said = sight.reason or f"this dtype and case cannot see: {', '.join(sight.unseen)}"
        _mark(case, "skipped", "cannot see", said, "")
    _count(suite)


def _add_reach(case: ET.Element, results: Sequence[Result]) -> None:
    """Say for each tensor how far below the reference its budget lies."""
    reaches = {result.tensor: result.reach for result in results if result.reach is not None}
    if reaches:
        lines = [f"{tensor}: {reach_words(reach)}" for tensor, reach in reaches.items()]
        ET.SubElement(case, "system-out").text = _legal("\n".join(lines))


def _same_as(job: str, results: Sequence[Result], causes: Mapping[Result, Cause], told: dict[Cause, str]) -> str:
    """Name the earlier test with the same cause, or note this one as the first to have it."""
    cause = next((causes[result] for result in results if result in causes), None)
    if cause is None or len(cause.results) == 1:
        return ""
    if (first := told.setdefault(cause, job)) != job:
        return f" (the same cause as {first}{f', at {cause.stage}' if cause.stage else ''})"
    return ""


def _judge(case: ET.Element, results: Sequence[Result], strict: bool, same_as: str) -> None:
    """Mark a test by the worst of its tensors: a disagreement, then an error, then what was not judged.

    The rounding of a framework is a skipped test, and a failure if `strict`.
    """
    errors = [result for result in results if result.verdict == "ERROR"]
    failed = [
        result for result in results if (result.fails and result not in errors) or (strict and result.is_rounding)
    ]
    skipped = sorted((result for result in results if result.is_open or result.is_rounding), key=lambda r: r.is_open)
    for kind, marked in (("failure", failed), ("error", errors), ("skipped", skipped)):
        if marked:
            shown = failed + errors if kind == "failure" else marked
            lines = [f"{result.tensor}: {result.describe(traceback=True)}" for result in shown]
            summary = f"{marked[0].tensor}: {marked[0].describe()}{same_as if kind != 'skipped' else ''}"
            return _mark(case, kind, marked[0].verdict, summary, "\n".join(lines))
    return None


def _mark(case: ET.Element, kind: str, type_: str, message: str, content: str) -> None:
    mark = ET.SubElement(case, kind, type=_legal(type_), message=_legal(message))
    mark.text = _legal(content) or None


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for kind, name in COUNTS.items():
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))


def _legal(value: object) -> str:
    """Return printable text: XML 1.0 cannot hold control characters or half characters."""
    return printable(str(value).replace("\r\n", "\n"), lines=True)
