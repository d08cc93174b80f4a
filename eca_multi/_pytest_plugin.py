"""The entry of the pytest plugin: `pytest.mark.parity` makes a test of every runner, case, dtype and check.

pytest imports this file in every run of everybody who has the package installed. The rest of the plugin is in
`parity/pytest`, whose import imports the whole harness: that happens for a test with the mark or for an option of the
plugin, and no sooner. See docs/pytest.md.
"""

from __future__ import annotations  # an old pytest may lack a type in an annotation

import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eca_multi._printable import printable

if TYPE_CHECKING:
    from eca_multi.parity.pytest.marks import ParityCase
    from eca_multi.parity.pytest.results import Results

MARK = "parity(spec, runners=None, dtypes=None, cases=None, checks=None)"
OPTIONS = {
    "runners": "Only these runners out of those that the marks ask for, as in torch,linen.",
    "dtypes": "Only these dtypes.",
    "checks": "Only these checks.",
    "require": 'Runners that must be installed, or "all": where one is not, its tests fail instead of being skipped.',
}


class Check:
    """The value of the fixture `parity`: its call asserts that the test's tensors agree with the reference."""

    def __init__(self, name: str, error: Exception | None) -> None:
        self.name = name
        self.error = error
        self.called = False

    def __repr__(self) -> str:
        return f"<parity {self.name}>"

    def __call__(self) -> None:
        __tracebackhide__ = True
        self.called = True
        if self.error is not None:
            raise self.error


RESULTS = pytest.StashKey["Results"]()
FOLDER = pytest.StashKey[Path]()  # shared by the workers of pytest-xdist
CHECK = pytest.StashKey[Check]()
FAULTS = pytest.StashKey[list[str]]()  # one for each report that could not be written
USAGE = "usage.txt"  # in FOLDER: a usage error that a worker found


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "cross-framework parity (eca-multi)")
    for name, text in OPTIONS.items():
        group.addoption(f"--parity-{name}", metavar="NAMES", default="", help=text)
    text = "Fail a test where the rounding of a framework is over the budget, too. Without it, such a test is xfailed."
    group.addoption("--parity-strict", action="store_true", help=text)
    text = "Write a report of each specification into this folder, as NAME.json, NAME.html and NAME.xml."
    group.addoption("--parity-report", metavar="DIR", default="", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: a test for each runner, case, dtype and check")
    for name, constant in (("dtypes", "DTYPES"), ("checks", "TESTED")):
        if config.getoption(f"parity_{name}"):
            collect = _harness("pytest.collect")
            known = list(getattr(_harness("pytest.marks"), constant))
            collect.check_option(name, collect.names_of(config, name), known)
    if config.getoption("parity_report") and not _in_xdist_worker(config):
        try:
            _report_folder(config).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(f"--parity-report must be a folder to write to. Received: {error}.") from error


# --- collecting


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("parity")
    if mark is None or not ("parity_case" in metafunc.fixturenames or _is_ours(mark)):
        return
    try:
        results = _results(metafunc.config)
    except pytest.UsageError as error:  # a package is missing: an error of this file, not of the session
        pytest.fail(str(error), pytrace=False)
    _harness("pytest.collect").parametrize(metafunc, mark, results)


def _is_ours(mark: pytest.Mark) -> bool:
    """Whether a mark names a specification: another project may have a mark with the same name."""
    spec = mark.args[0] if mark.args else mark.kwargs.get("spec")
    if not isinstance(spec, str):
        return type(spec).__module__ == "eca_multi.parity.define.spec"
    shipped = Path(__file__).parent / "parity" / "specs" / f"{spec}.py"
    return ".py" in spec or (spec.isidentifier() and shipped.exists())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if RESULTS not in config.stash:
        return
    results = config.stash[RESULTS]
    try:
        _harness("pytest.collect").leave_out(config, items, results)
    except pytest.UsageError as error:
        if results.folder is None:
            raise
        # The main process raises this error: in a worker it would end as an internal error.
        (results.folder / USAGE).write_text(str(error), "utf-8", "backslashreplace")
        items.clear()


def pytest_collection_finish(session: pytest.Session) -> None:
    if RESULTS in session.config.stash:
        cells = map(_harness("pytest.collect").cell_of, session.items)
        session.config.stash[RESULTS].select(cell for cell in cells if cell is not None)


# --- running


@pytest.fixture
def parity_case(request: pytest.FixtureRequest) -> ParityCase:
    """The cell of a test with the mark `parity`: .runner, .case, .dtype, .check and .spec."""
    if not hasattr(request, "param"):
        pytest.fail(f"the fixtures parity and parity_case need the mark @pytest.mark.{MARK}", pytrace=False)
    case: ParityCase = request.param
    return case


@pytest.fixture
def parity(request: pytest.FixtureRequest, parity_case: ParityCase) -> Check:
    """A function; its call asserts that the test's runner, case, dtype and check agree with the reference."""
    outcome = _harness("pytest.outcome").outcome(_results(request.config), parity_case, request.node.nodeid)
    request.node.user_properties += outcome.properties
    if outcome.crash:
        pytest.fail(outcome.crash, pytrace=False)
    if outcome.skip:
        pytest.skip(outcome.skip)
    if outcome.rounding:
        pytest.xfail(outcome.rounding)
    check = request.node.stash[CHECK] = Check(str(parity_case), outcome.error)
    return check


@pytest.fixture
def assert_ported(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`parity.assert_ported`, whose reports are in the summary and in the folder of --parity-report too."""
    ported = _harness("port")

    def assert_ported(reference: Any, port: Any, inputs: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        report = ported.compare_models(reference, port, inputs, **options)
        _results(request.config).add(report, request.node.nodeid)
        ported.raise_for_port(report)
        return report

    return assert_ported


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    check = pyfuncitem.stash.get(CHECK, None)
    if check is not None and not check.called:
        pytest.fail("a test that takes the fixture `parity` must call it: parity()", pytrace=False)
    return result


# --- reporting


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker of pytest-xdist the folder that all of them share."""
    stash = node.config.stash
    if FOLDER not in stash:
        from eca_multi._files.scratch import scratch_folder

        stack = ExitStack()
        stash[FOLDER] = stack.enter_context(scratch_folder("eca-pytest"))
        node.config.add_cleanup(stack.close)  # runs however the session ends
    node.workerinput["eca_multi_parity"] = str(stash[FOLDER])


@pytest.hookimpl(trylast=True)  # after pytest-xdist has ended its workers
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if FOLDER in config.stash:
        shared = config.stash[FOLDER]
        wrong = (shared / USAGE).read_text("utf-8") if (shared / USAGE).exists() else ""
        if any(shared.iterdir()):
            _results(config).gather(shared)
        if wrong:
            raise pytest.UsageError(wrong)
    if RESULTS in config.stash and config.getoption("parity_report") and not _in_xdist_worker(config):
        config.stash[FAULTS] = config.stash[RESULTS].write(_report_folder(config))
        if config.stash[FAULTS] and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR  # raising would lose the summary of the tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for fault in config.stash.get(FAULTS, []):
        terminalreporter.write_line(f"--parity-report: {fault}", red=True)
    for report in config.stash[RESULTS].joined() if RESULTS in config.stash else ():
        terminal = {"width": shutil.get_terminal_size().columns, "colour": terminalreporter.hasmarkup}
        terminalreporter.section(printable(f"parity of {report.spec['name']}"))
        terminalreporter.write_line(_harness("report.terminal").summary(report, **terminal))


# --- shared


def _harness(module: str) -> Any:
    try:
        return import_module(f"eca_multi.parity.{module}")
    except ImportError as error:  # its text names the missing package, and the extra
        raise pytest.UsageError(str(error)) from error


def _results(config: pytest.Config) -> Results:
    """The results of this process; filled as its tests run."""
    if RESULTS not in config.stash:
        place = getattr(config, "workerinput", {}).get("eca_multi_parity")
        required = tuple(_harness("pytest.collect").names_of(config, "require"))
        options = {"folder": Path(place) if place else None, "strict": bool(config.getoption("parity_strict"))}
        config.stash[RESULTS] = _harness("pytest.results").Results(required, **options)
    return config.stash[RESULTS]


def _in_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _report_folder(config: pytest.Config) -> Path:
    return config.invocation_params.dir / str(config.getoption("parity_report"))
