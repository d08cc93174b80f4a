"""Collection: give each marked test its cells, and deselect what the options leave out."""

from inspect import signature
from typing import NoReturn

import pytest

from eca_multi.parity.define.axes import SpecError

from .marks import ParityCase, cells_of_mark, is_named
from .results import Results


def parametrize(metafunc: pytest.Metafunc, mark: pytest.Mark, results: Results) -> None:
    """Give a marked test its cells, each with an id of its own."""
    marks_named_parity = [mark.name for mark in getattr(metafunc.function, "pytestmark", ())].count("parity")
    if "parity_case" not in metafunc.fixturenames:
        if marks_named_parity:  # a mark on a class or module is for those of its tests that take the fixture
            _fail(metafunc, "must take the fixture `parity` and call it, or take `parity_case`; it would test nothing")
        return
    if marks_named_parity > 1:
        _fail(metafunc, "must have one parity mark; write another test for another specification")
    known = [name for name in signature(cells_of_mark).parameters if name != "module"]
    if unknown := [name for name in mark.kwargs if name not in known]:
        _fail(metafunc, f"has a parity mark that takes {', '.join(known)} alone. Received: {unknown[0]}=")
    try:
        cells = cells_of_mark(*mark.args, **mark.kwargs, module=metafunc.module)
    except TypeError as error:
        _fail(metafunc, f"has a parity mark with wrong arguments: {error}")
    except SpecError as error:
        _fail(metafunc, f"has a parity mark that cannot be right: {error}")
    results.known |= dict.fromkeys(cell.runner for cell in cells)
    # With --dist loadgroup, a runner's tests stay in one process and share its run. A group of the user's goes first:
    # pytest-xdist would join the names of both groups to a third name.
    is_grouped = hasattr(metafunc.config, "workerinput") and not metafunc.definition.get_closest_marker("xdist_group")
    params = []
    for cell in cells:
        marks = [pytest.mark.xdist_group(f"parity-{cell.spec.name}-{cell.runner}")] if is_grouped else []
        params.append(pytest.param(cell, id=str(cell), marks=marks))
    metafunc.parametrize("parity_case", params, indirect=True)


def leave_out(config: pytest.Config, items: list[pytest.Item], results: Results) -> None:
    """Deselect the tests that --parity-runners, --parity-dtypes and --parity-checks do not name.

    Raises pytest.UsageError if a runner is named that no mark asks for.
    """
    wanted = {name: names_of(config, name) for name in ("runners", "dtypes", "checks")}
    check_option("runners", wanted["runners"], list(results.known))
    left = [name for name in results.known if is_named(name, wanted["runners"] or results.known)]
    if "all" not in results.required:
        check_option("require", results.required, left)

    def is_wanted(item: pytest.Item) -> bool:
        cell = cell_of(item)
        if cell is None:
            return True
        dtypes, checks = wanted["dtypes"] or [cell.dtype], wanted["checks"] or [cell.check]
        return cell.runner in left and cell.dtype in dtypes and cell.check in checks

    left_out = [item for item in items if not is_wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_wanted(item)]


def names_of(config: pytest.Config, option: str) -> list[str]:
    text = str(config.getoption(f"parity_{option}"))
    return [part.strip() for part in text.split(",") if part.strip()]


def check_option(option: str, names: list[str] | tuple[str, ...], known: list[str]) -> None:
    """Refuse an unknown name by a pytest.UsageError with the known names."""
    for name in names:
        if not any(is_named(other, [name]) for other in known):
            raise pytest.UsageError(f"--parity-{option} must be one of {', '.join(known)}. Received: {name!r}.")


def cell_of(item: pytest.Item) -> ParityCase | None:
    """Return the cell of a test; None for a test without the mark."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("parity_case") if callspec is not None else None
    return cell if isinstance(cell, ParityCase) else None


def _fail(metafunc: pytest.Metafunc, text: str) -> NoReturn:
    pytest.fail(f"{metafunc.definition.nodeid} {text}", pytrace=False)
