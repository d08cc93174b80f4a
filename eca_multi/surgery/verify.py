"""The verdict on a run before and after insertion."""

from collections.abc import Mapping

from .errors import VerifyError
from .plan import ECAPlan


def check_verified(plan: ECAPlan, same: bool, calls: Mapping[str, tuple[int, int]]) -> None:
    """Raise VerifyError if outputs that the plan keeps differ, or an ECA was not called as often as its base.

    `same` says whether all outputs were bit-equal; `calls` counts the calls of the base and of the ECA at each path.
    """
    wrong = [f"{path}: base called {base} times, its ECA {eca}" for path, (base, eca) in calls.items() if base != eca]
    wrong += [f"{path}: never called" for path, (base, eca) in calls.items() if base == eca == 0]
    if plan.keeps_output and not same:
        wrong.append("outputs differ from those before, which an identity start keeps bit-equal")
    if wrong:
        raise VerifyError(
            f"The network with ECA must do what the plan says. Received: {'; '.join(wrong)}. The model was put back; "
            "leave these sites out with exclude."
        )
