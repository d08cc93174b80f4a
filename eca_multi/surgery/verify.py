"""The verdict on runs before and after insertion.

Equal outputs at the identity start do not show over which axis an ECA averages: a kernel of zeros gives the gate 1 on
any axis. So each ECA is also run with the kernel of `probe`, and `differences` compares it with the oracle in float64.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eca_multi._parsing import reason_of
from eca_multi.reference import forward

from .entry import ECAEntry
from .errors import VerifyError
from .plan import ECAPlan

FAR = 0.02  # of the largest |x|: above the rounding of bfloat16, far below what a gate over another axis does
NOISE = 1e-3  # of the size of x: far above the rounding of a mean in float32


def check_verified(
    plan: ECAPlan, same: bool, calls: Mapping[str, tuple[int, int]], wrong_at_probe: Iterable[str] = ()
) -> None:
    """Raise VerifyError if outputs that the plan keeps differ, or an ECA was not called as often as its base.

    `same` says whether all outputs were bit-equal; `calls` counts the calls of the base and of the ECA at each path;
    `wrong_at_probe` is what `differences` returned for each site.
    """
    wrong = [f"{path}: base called {base} times, its ECA {eca}" for path, (base, eca) in calls.items() if base != eca]
    wrong += [f"{path}: never called" for path, (base, eca) in calls.items() if base == eca == 0]
    if plan.keeps_output and not same:
        wrong.append("outputs differ from those before, which an identity start keeps bit-equal")
    wrong += wrong_at_probe
    if wrong:
        raise VerifyError(
            f"The network with ECA must do what the plan says. Received: {'; '.join(wrong)}. The model was put back; "
            "leave these sites out with exclude."
        )


def check_numbers(has_nan: bool) -> None:
    """Raise VerifyError if the outputs before the insertion hold NaN: what is NaN before and after shows no ECA."""
    if has_nan:
        raise VerifyError(
            "The network must return numbers on example_inputs, for its outputs before and after to be compared. "
            "Received: NaN in its outputs before the insertion. Look for NaN in the weights and the inputs, or pass "
            "verify=False."
        )


def did_not_run(error: BaseException, reason: str = "") -> VerifyError:
    """Return the error for a changed network whose run raises, where the run before did not."""
    return VerifyError(
        f"The network with ECA must run. Received: {type(error).__name__}: {(reason or reason_of(error)).rstrip('.')}. "
        "The model was put back; leave these sites out with exclude, or pass verify=False."
    )


def probe(entry: ECAEntry, x: ArrayLike) -> NDArray[np.float64]:
    """Return a kernel for a site's ECA that is neither zero nor symmetric, so that a wrong axis or a flip shows.

    Args:
        entry: The site.
        x: What the site's ECA received in a run; the taps are scaled to its means, so that the gates are far from 1.

    Example:
        >>> import numpy as np
        >>> from eca_multi.surgery.entry import ECAEntry
        >>> from eca_multi.surgery.verify import probe
        >>> probe(ECAEntry("bn", channels=4, kernel_size=3), np.ones((1, 4, 2, 2))).tolist()
        [0.5, -1.0, 1.5]
    """
    x = np.asarray(x, np.float64)
    others = tuple(i for i in range(1, x.ndim) if i != entry.channel_axis % x.ndim)
    size = _size(x.mean(others))
    # Behind an instance norm without a bias the means are 0 up to rounding, which the taps must not make large.
    size = max(size, NOISE * _size(x))
    taps = np.array([(-1) ** i * 0.5 * (i % 3 + 1) for i in range(entry.kernel_size)])
    return taps / size if np.isfinite(size) and size > np.finfo(np.float32).tiny else taps


def _size(x: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def differences(entry: ECAEntry, gate: str, kernel: ArrayLike, x: ArrayLike, y: ArrayLike) -> list[str]:
    """Compare what an ECA with a kernel off the identity made of `x` with the oracle, in float64.

    Args:
        entry: The site. The number of its channels must stand at its axis in `x`.
        gate: The plan's.
        kernel: The kernel that `probe` returned, of shape (k,), as the ECA holds it.
        x, y: The tensor that the ECA received and the one that goes on from the site.

    Returns:
        What is wrong, in words; nothing if all is right. A tensor with NaN or infinity is not compared.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape:
        return [f"{entry.path}: its ECA received shape {x.shape} and returned {y.shape}"]
    if entry.channels and x.shape[entry.channel_axis] != entry.channels:
        return [f"{entry.path}: axis {entry.channel_axis} of {x.shape} does not hold the {entry.channels} channels"]
    if not x.size or not np.isfinite(x).all():
        return []
    expected = forward(x, kernel, gate=gate, channel_axis=entry.channel_axis, **entry.axes).y
    if np.abs(y - expected).max() > FAR * np.abs(x).max():
        return [f"{entry.path}: with a kernel off the identity, it is not ECA over axis {entry.channel_axis}"]
    return []
