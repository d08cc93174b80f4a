"""`eca-multi parity doctor`: does this machine have what a parity run needs?"""

from importlib import import_module

from eca_multi._terminal import Terminal

from .guard import finish, guard
from .options import Spec, Timeout


def doctor(spec: Spec = "eca", timeout: Timeout = 60) -> None:
    """Check this machine: interpreter, frameworks, compiler, disk; start each worker once."""
    findings = guard(lambda parity: import_module("eca_multi.parity.doctor").examine(spec, timeout=timeout))
    from eca_multi.parity.report.terminal import print_doctor

    status = 3 if any(finding.state == "fault" for finding in findings) else 0
    finish(status, lambda: print_doctor(findings, Terminal()))
