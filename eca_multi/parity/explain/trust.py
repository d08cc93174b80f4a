"""What a bundle may run. It is data, and names code: this package's own runs, all other where the caller says so.

Nothing that a bundle names is imported to decide that: our own specifications say what is ours.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from eca_multi.parity.define.runners import Runner, UsageError, reference_of, runners_of
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.specs import SHIPPED

from .bundle import Bundle

HERE, OURS, YOURS, THEIRS = "this one", "of eca_multi", "yours", "NAMED BY THE BUNDLE"
Part = tuple[str, str, str]  # what it is, its value as Python writes it, and whose it is


class Untrusted(UsageError):
    """A bundle names code that is not this package's, and nobody said that it may run."""


def check_trust(bundle: Bundle, folder: str | os.PathLike[str], runners: Sequence[Runner] = ()) -> None:
    """Refuse a bundle whose replay would run code that is not ours.

    Args:
        bundle: What was read.
        folder: Where it lies, for the message.
        runners: The caller's own, in the place of the bundle's.

    Raises:
        Untrusted: With all that would run.
    """
    if any(whose == THEIRS for *_, whose in _parts(bundle, runners)):
        # The caller's own adapter stands there already: it is the reference that is not ours.
        other = "" if runners else ", or name an adapter of your own by --runner file.py:Class"
        raise Untrusted(
            "a bundle is data: the code that it names must be of this package, unless you trust it. "
            f"Received: {os.fspath(folder)!r}, which would run\n{what_runs(bundle, runners)}\n"
            f"Read that code. Then add --trust (in Python trust=True){other}."
        )


def what_runs(bundle: Bundle, runners: Sequence[Runner] = ()) -> str:
    """Return what a replay runs: a line for each part, with whose it is."""
    return "\n".join(f"  {part:<12} {value} ({whose})" for part, value, whose in _parts(bundle, runners))


def _parts(bundle: Bundle, runners: Sequence[Runner]) -> list[Part]:
    own = [("adapter", repr(runner.adapter), YOURS) for runner in runners]
    return [*(own or _of_runner(bundle)), _of_reference(bundle)]


def _of_runner(bundle: Bundle) -> list[Part]:
    """Its three parts. The settings must be those of our own runner to the letter: one name can load any library."""
    same = [r for spec in _shipped(bundle.adapter) for r in runners_of(spec) if r.adapter == bundle.adapter]
    settings = ", ".join(f"{name}={value!r}" for name, value in bundle.env.items())
    is_ours = not settings or any(dict(runner.env) == bundle.env for runner in same)
    return [
        ("interpreter", repr(bundle.python or sys.executable), THEIRS if bundle.python else HERE),
        ("environment", settings or "nothing is set", OURS if is_ours else THEIRS),
        ("adapter", repr(bundle.adapter), OURS if same else THEIRS),
    ]


def _of_reference(bundle: Bundle) -> Part:
    ours = any(reference_of(spec).adapter == bundle.reference for spec in _shipped(bundle.reference))
    return "reference", repr(bundle.reference), OURS if ours else THEIRS


def _shipped(source: str) -> list[Spec]:
    """The specifications of the module in "module:Class", if it is one of ours."""
    home, _, name = source.partition(":")[0].rpartition(".")
    if home != "eca_multi.parity.specs" or name not in SHIPPED:
        return []
    return [value for value in vars(import_module(f"{home}.{name}")).values() if isinstance(value, Spec)]
