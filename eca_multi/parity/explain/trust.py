"""Which code of a bundle may run. A bundle is data and names code: this package's own code runs, any other with trust.

The decision imports nothing that a bundle names: the specifications of this package say which code is its own.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from eca_multi.parity.define.runners import Runner, UsageError, reference_of, runners_of
from eca_multi.parity.define.spec import Spec
from eca_multi.parity.specs import SHIPPED

from .bundle import Bundle

HERE, OURS, YOURS, THEIRS = "this one", "of eca_multi", "yours", "NAMED BY THE BUNDLE"
Part = tuple[str, str, str]  # its kind, its value as Python writes it, and whose code it is


class Untrusted(UsageError):
    """A bundle names code that is not this package's, and the caller did not say that it may run."""


@dataclass(frozen=True)
class Code:
    """The code that a replay runs, in the words of a `Bundle`, which may stand in its place."""

    adapter: str
    python: str
    reference: str
    env: Mapping[str, str]


def needs_trust(runner: Runner, reference: Runner) -> bool:
    """Whether the replay of a runner's failure will ask for trust."""
    code = Code(runner.adapter, runner.python, reference.adapter, runner.env)
    return any(whose == THEIRS for *_, whose in _parts(code, ()))


def check_trust(bundle: Bundle, folder: str | os.PathLike[str], runners: Sequence[Runner] = ()) -> None:
    """Raise Untrusted, with all code that would run, if a replay would run code that is not this package's.

    `folder` is the bundle's, for the message. `runners` are those that the caller names in the place of the bundle's.
    """
    if any(whose == THEIRS for *_, whose in _parts(bundle, runners)):
        # Where the caller has named an adapter, the reference alone is untrusted, and --runner does not replace it.
        other = "" if runners else ", or name an adapter of your own by --runner file.py:Class"
        raise Untrusted(
            "a bundle is data: the code that it names must be of this package, unless you trust it. "
            f"Received: {os.fspath(folder)!r}, which would run\n{what_runs(bundle, runners)}\n"
            f"Read that code. Then add --trust (in Python trust=True){other}."
        )


def what_runs(bundle: Bundle, runners: Sequence[Runner] = ()) -> str:
    """Return the code that a replay runs: a line for each part, with whose code it is."""
    return "\n".join(f"  {part:<12} {value} ({whose})" for part, value, whose in _parts(bundle, runners))


def _parts(bundle: Bundle | Code, runners: Sequence[Runner]) -> list[Part]:
    named = [("adapter", repr(runner.adapter), YOURS) for runner in runners]
    ours = any(reference_of(spec).adapter == bundle.reference for spec in _shipped(bundle.reference))
    return [*(named or _of_runner(bundle)), ("reference", repr(bundle.reference), OURS if ours else THEIRS)]


def _of_runner(bundle: Bundle | Code) -> list[Part]:
    """Return the parts of its runner.

    The settings must be those of this package's runner to the letter: one variable can load any library.
    """
    same = [r for spec in _shipped(bundle.adapter) for r in runners_of(spec) if r.adapter == bundle.adapter]
    settings = ", ".join(f"{name}={value!r}" for name, value in bundle.env.items())
    is_ours = not settings or any(dict(runner.env) == dict(bundle.env) for runner in same)
    return [
        ("interpreter", repr(bundle.python or sys.executable), THEIRS if bundle.python else HERE),
        ("environment", settings or "nothing is set", OURS if is_ours else THEIRS),
        ("adapter", repr(bundle.adapter), OURS if same else THEIRS),
    ]


def _shipped(source: str) -> list[Spec]:
    """Return the specifications of the module in "module:Class", if the module is one of this package's."""
    home, _, name = source.partition(":")[0].rpartition(".")
    if home != "eca_multi.parity.specs" or name not in SHIPPED:
        return []
    return [value for value in vars(import_module(f"{home}.{name}")).values() if isinstance(value, Spec)]
