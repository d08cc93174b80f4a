"""Pages that stand alone: what the report of parity and the page of recorded gates have in common.

Jinja2 writes a page, matplotlib its pictures; no network, script or second file. Both packages are imported when a page
is written.
"""

from importlib.util import find_spec

from eca_multi._errors import NotInstalled, not_installed


def check_installed(what: str, extra: str, modules: tuple[str, ...] = ("jinja2", "matplotlib")) -> None:
    """Raise NotInstalled if what a page or a picture needs is not installed here."""
    for module in modules:
        if find_spec(module) is None:
            raise NotInstalled(not_installed(what, module, extra))
